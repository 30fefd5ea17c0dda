"""Torch's tensors and modules: memory, names, boxes, shards."""
