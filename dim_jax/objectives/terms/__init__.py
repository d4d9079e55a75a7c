"""The terms that losses of an encoder add up, a file each."""
