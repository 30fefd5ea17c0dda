"""Print the configuration: `python -m fastinit`."""

from fastinit import show_config

show_config()
