"""Lazy modules have no shapes: a model on meta cannot have them."""

from __future__ import annotations

import pytest
from torch import nn

import fastinit


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_build_on_meta_refuses_them_by_name() -> None:
    with pytest.raises(ValueError, match=r"build: .*weight.* are lazy"):
        fastinit.build(lambda: nn.Sequential(nn.LazyLinear(3)), device="meta")
