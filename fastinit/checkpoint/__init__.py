"""Pretrained weights from files."""
