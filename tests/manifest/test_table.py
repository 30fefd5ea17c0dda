"""The table of a plan, for people."""

from __future__ import annotations

from io import StringIO

import torch
from rich.console import Console
from torch import nn

from fastinit import fused, initialize


def test_eighty_columns_cut_nothing_off() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with fused(seed=0, root=model) as plan:
        nn.init.trunc_normal_(model[0].weight, std=0.02, a=-0.04, b=0.04)
        nn.init.constant_(model[0].bias, 0.125)
    console = Console(width=80, file=StringIO(), record=True)
    console.print(plan.table())
    printed = console.export_text()
    assert "…" not in printed
    rows = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines()]
    rules = "".join(row[4] for row in rows if len(row) > 4)
    assert rules.replace(" ", "").endswith("b=0.04)constant(value=0.125)")


def test_it_tells_operations_and_rules_that_wrote_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    with fused(seed=0, root=model) as plan, torch.no_grad():
        model[0].weight.normal_().mul_(0.5).clamp_(-0.25, 1)
        initialize(model, {"type": "Constant", "layer": "Conv2d", "val": 1})
    console = Console(width=200, file=StringIO(), record=True)
    console.print(plan.table())
    rows = [row for row in console.export_text().splitlines() if row.startswith("│")]
    assert "normal(mean=0, std=1).mul(0.5).clamp(-0.25, 1)" in rows[0]
    assert rows[1].startswith("│ nothing")
    assert "Conv2d" in rows[1]
