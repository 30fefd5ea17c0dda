"""The account of a plan as data; any part of a tensor again from it."""
