"""Who writes what: recorded, last write wins, executed together."""
