"""The command `fastinit`."""
