"""Whole models: built, made on meta, materialized."""
