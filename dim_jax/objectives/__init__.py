"""Methods: one file each, with a `Config` and a `make(config)`."""
