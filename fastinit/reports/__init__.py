"""Reports: what the values of a model look like, as data and as pictures."""
