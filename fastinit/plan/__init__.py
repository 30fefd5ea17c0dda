"""The plan: fills recorded, last write wins, executed together."""
