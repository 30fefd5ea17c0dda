"""A plugin of pytest: every test runs with fastinit under mmengine (`make mmengine-suite`)."""

from __future__ import annotations

from fastinit.integrations import mmengine

mmengine.install()
