"""The terms of Deep InfoMax, a file each."""
