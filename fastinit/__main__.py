"""`python -m fastinit` prints the configuration."""

from fastinit import show_config

show_config()
