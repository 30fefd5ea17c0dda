"""The logger of the package, and who writes to it."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger("fastinit")


def is_main_process() -> bool:
    """Whether this is rank 0, or no distributed run at all."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return True
    return distributed.get_rank() == 0
