"""Whole models: built, with or without memory, and materialized."""
