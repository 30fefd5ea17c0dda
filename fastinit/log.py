"""The package's logger, and whether this process writes to it."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger("fastinit")


def is_main_process() -> bool:
    """Whether this process is rank 0, or not part of a distributed run."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return True
    return distributed.get_rank() == 0
