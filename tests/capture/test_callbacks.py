"""Python code that runs inside a call of torch, where the mode is off torch's stack."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastinit import fused, init


def reads_by_a_closure() -> Any:
    w = nn.init.constant_(torch.zeros(3), 5.0)
    ones = torch.ones(1, 3)
    return F.triplet_margin_with_distance_loss(
        0 * ones,
        ones,
        2 * ones,
        distance_function=lambda x, y: (w * (x - y).abs()).sum(-1),
        margin=20.0,
    ).item()


def branches() -> Any:
    m = nn.Linear(2, 1, bias=False)
    nn.init.constant_(m.weight, 3.0)
    return torch.cond(
        torch.tensor(True), lambda x: m(x), lambda x: -m(x), (torch.ones(1, 2),)
    ).item()


def applies() -> Any:
    w = init.constant_(torch.zeros(1), 5.0)
    return torch.ones(2).apply_(lambda x: x + w[0].item()).tolist()


def sequences() -> Any:
    w = init.constant_(torch.zeros(3), 5.0)

    class Sequence:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, n: int) -> float:
            return [*w.tolist()][n]

    return torch.tensor(Sequence()).tolist()


def subclasses() -> Any:
    w = init.constant_(torch.zeros(1), 5.0)

    class Adds(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {})) if "sum" not in str(func) else w.item()

    return torch.ones(2).as_subclass(Adds).sum()


def own_operators() -> Any:
    w = init.constant_(torch.zeros(1), 5.0)

    @torch.library.custom_op(f"fastinit_tests::adds{id(w)}", mutates_args=())
    def adds(x: Tensor) -> Tensor:
        return x + w

    return adds(torch.ones(1)).tolist()


def hooks() -> Any:
    found = []
    kept = torch.zeros(3)
    x = torch.ones(3, requires_grad=True)

    def hook(gradient: Tensor) -> None:
        w = torch.zeros(3)
        nn.init.constant_(w, 5.0)
        w.mul_(2.0)
        found.append(w.sum().item())
        init.constant_(kept, 5)
        kept.mul_(2).add_(torch.ones(3))

    x.register_hook(hook)
    x.sum().backward()
    return found, kept.tolist()


def functions() -> Any:
    class Doubles(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * init.constant_(torch.empty(3), 2).mul_(2)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * init.constant_(torch.empty(3), 3).add_(torch.ones(3))

    x = torch.ones(3, requires_grad=True)
    y = Doubles.apply(x)
    y.sum().backward()
    return y.tolist(), x.grad.tolist()  # type: ignore[union-attr]


def scripted_modules() -> Any:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    scripted = torch.jit.script(layer)
    results = [scripted(torch.ones(1, 2)).item()]
    nn.init.constant_(layer.weight, 4.0)
    results.append(nn.Sequential(scripted)(torch.ones(1, 2)).item())
    nn.init.constant_(layer.weight, 5.0)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    results.append(torch.jit.load(file)(torch.ones(1, 2)).item())
    nn.init.constant_(layer.weight, 6.0)
    results.append(torch.jit.freeze(scripted.eval())(torch.ones(1, 2)).item())
    return results


def nested() -> Any:
    return torch.nested.nested_tensor([init.constant_(torch.zeros(3), 2.0)]).to_padded_tensor(0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "program",
    [
        reads_by_a_closure,
        branches,
        applies,
        sequences,
        subclasses,
        own_operators,
        hooks,
        functions,
        scripted_modules,
        nested,
    ],
)
@pytest.mark.parametrize("seed", [None, 3])
def test_programs(program: Callable[[], Any], seed: int | None) -> None:
    expected = str(program())
    with fused(seed=seed):
        assert str(program()) == expected


def dropped(reentrant: bool) -> Tensor:
    x = torch.ones(1000, requires_grad=True)
    y = checkpoint(lambda t: F.dropout(t), x, use_reentrant=reentrant) * 1  # type: ignore[no-untyped-call]
    y.sum().backward()
    assert torch.equal(y != 0, x.grad != 0)
    return y.detach()


def noisy_hook() -> Tensor:
    x = torch.ones(8, requires_grad=True)
    x.register_hook(lambda gradient: gradient + torch.rand(8))
    x.sum().backward()
    return x.grad  # type: ignore[return-value]


def splits() -> Tensor:
    parts = torch.utils.data.random_split(range(6), [3, 3])  # type: ignore[arg-type]
    return torch.tensor([list(part.indices) for part in parts])


DRAWS: dict[str, Callable[[], Tensor]] = {
    "checkpoint": lambda: dropped(False),
    "reentrant": lambda: dropped(True),
    "hook": noisy_hook,
    "split": splits,
    "default": lambda: torch.rand(2, generator=torch.default_generator),
    "operator": lambda: torch.ops.aten.bernoulli(torch.full((9,), 0.5)),
    "reseeded": lambda: torch.rand(2, generator=[torch.manual_seed(5), torch.manual_seed(6)][0]),
    "poisson": lambda: torch.poisson(torch.ones(3), torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_draws_are_those_of_the_seed(name: str) -> None:
    torch.manual_seed(3)
    expected = DRAWS[name]()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for _ in range(2):
        with fused(seed=3):
            assert torch.equal(DRAWS[name](), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tracer_sees_no_generator() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    with fused(seed=1):
        graph = make_fx(lambda x: x + torch.rand(3))(torch.ones(3))
    values = []
    for _ in range(2):
        torch.manual_seed(5)
        values.append(graph(torch.zeros(3)))
    assert "generator" not in graph.code
    assert torch.equal(*values)


def test_manual_seed_wants_a_seed() -> None:
    with fused(seed=1), pytest.raises(TypeError, match="seed"):
        torch.manual_seed()  # type: ignore[call-arg]
