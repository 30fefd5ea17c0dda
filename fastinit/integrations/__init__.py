"""Seams of other libraries."""
