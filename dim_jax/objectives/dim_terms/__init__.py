"""The terms of Deep InfoMax, a file each: options, parameters and loss."""
