"""What the oldest torch that is served cannot do itself."""

from __future__ import annotations

import pytest
import torch

IS_OLDEST = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 7)


def not_on_oldest(reason: str) -> pytest.MarkDecorator:
    """Skip a test on torch 2.6, of which `reason` tells what it lacks."""
    return pytest.mark.skipif(IS_OLDEST, reason=f"torch 2.6: {reason}")
