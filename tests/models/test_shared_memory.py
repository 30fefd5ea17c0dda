"""Parameters that are parts of others: told by the one around them, and refused on meta."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from modules import copied, same
from torch import nn

import fastinit
from fastinit import fused


class Early(nn.Module):
    """A part that is taken after one of its rows was written."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(10, 4)
        nn.init.zeros_(self.tok.weight[0])
        self.few = nn.Parameter(self.tok.weight[:3])


class Late(nn.Module):
    """A part that is written itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(10, 4)
        self.few = nn.Parameter(self.tok.weight[:3])
        nn.init.zeros_(self.few[1])


class Apart(nn.Module):
    """Parts that share no element, of memory that has no name."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.empty(6, 4)
        self.even, self.odd = nn.Parameter(flat[::2]), nn.Parameter(flat[1::2])
        nn.init.normal_(self.even)
        nn.init.ones_(self.odd)


def planned(make: Callable[[], nn.Module]) -> tuple[nn.Module, fastinit.plan.plan.Plan]:
    with fused(seed=1) as plan:
        model = make()
        plan.add_root(model)
    return model, plan


@pytest.mark.parametrize("make", [Early, Late])
def test_a_part_is_told_by_the_tensor_around_it(make: Callable[[], nn.Module]) -> None:
    model, plan = planned(make)
    manifest = plan.manifest()
    assert manifest.named("tok.weight").status == "filled"
    assert manifest.named("few").status == "computed"
    assert fastinit.verify(model, plan.to_json()) == {"few": None, "tok.weight": True}
    assert model.tok.weight[0 if make is Early else 1].eq(0).all()


def test_parts_that_share_no_element_are_told_by_themselves() -> None:
    model, plan = planned(Apart)
    assert fastinit.verify(model, plan.to_json()) == {"even": True, "odd": True}


@pytest.mark.parametrize("make", [Early, Late])
def test_on_meta_they_are_refused_by_name(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"few and tok\.weight share memory.*on its device"):
        fastinit.build(make, device="meta")
    with torch.device("meta"):
        model = make()
    with pytest.raises(ValueError, match="few"):
        fastinit.materialize(model, device="cpu")
    assert model.tok.weight.is_meta


class Held(nn.Module):
    """Tensors that are no parameters, of the memory of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 20)
        self.whole = self.linear.weight.data
        self.rows = [self.linear.weight.detach()[2:5]]
        self.halves = nn.Parameter(torch.empty(2, 30))
        nn.init.normal_(self.halves[0])
        nn.init.ones_(self.halves[1])


@pytest.mark.parametrize("device", [None, torch.device("cpu", 0), torch.device("meta")])
def test_what_code_holds_beside_a_model_that_moves_has_its_values(
    device: torch.device | None,
) -> None:
    expected = copied(fastinit.build(Held, seed=4))
    model = fastinit.build(Held, seed=4, device=device)
    if device == torch.device("meta"):
        fastinit.materialize(model, device="cpu")
    assert same(expected, copied(model))
    assert torch.equal(model.whole, expected["linear.weight"])
    assert torch.equal(model.rows[0], expected["linear.weight"][2:5])


def test_models_whose_memory_is_theirs_alone_are_filled_where_they_go(
    fill_sizes: list[int],
) -> None:
    fastinit.build(lambda: nn.Transformer(16, 2, 1, 1, 8), seed=4, device=torch.device("cpu", 0))
    assert len(fill_sizes) == 1


def test_materialize_inside_init_weights_is_refused() -> None:
    class Outer(fastinit.BaseModule):
        def init_weights(self) -> None:
            with torch.device("meta"):
                inner = nn.Linear(2, 2)
            fastinit.materialize(inner, device="cpu")

    with pytest.raises(RuntimeError, match="materialize inside an init_weights"):
        Outer().init_weights()


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_memory_that_is_not_aligned_is_torchs(offset: int) -> None:
    class Model(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            memory = bytearray(44)
            self.odd = nn.Parameter(
                torch.frombuffer(memory, dtype=torch.float32, offset=offset, count=10)
            )
            self.linear = nn.Linear(2, 2)

        def init_weights(self) -> None:
            nn.init.constant_(self.odd, 3)
            nn.init.ones_(self.linear.weight)

    model = Model()
    model.init_weights()
    assert model.odd.tolist() == [3.0] * 10
    with fused():
        fastinit.init.constant_(model.odd, 4)
        nn.init.zeros_(model.linear.weight)
    assert model.odd.tolist() == [4.0] * 10
    assert model.linear.weight.eq(0).all()
