"""A plan belongs to its thread and its context: other threads and asyncio tasks have their own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

import fastinit
from fastinit import fused, init
from fastinit.plan.current import current
from fastinit.tensors import torch_private


def model() -> nn.Module:
    """A model that draws from the plan, and from torch's generator."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net.register_buffer("noise", torch.randn(4) + torch.rand(4).mul(2))
    net.register_buffer("mask", torch.empty(8).bernoulli_(0.5))
    net.register_buffer("order", torch.randperm(9))
    net.register_buffer("dropped", nn.functional.dropout(torch.ones(16)))
    net.register_buffer("like", torch.rand_like(torch.zeros(3)))
    return net


def noisy() -> nn.Module:
    net = nn.Linear(3, 3)
    net.register_buffer("noise", torch.randn(4))
    return net


def values(net: nn.Module) -> Tensor:
    return torch.cat([t.detach().flatten().double() for t in net.state_dict().values()])


async def drawing(seed: int, turns: int) -> list[Tensor]:
    drawn = []
    with fused(seed=seed) as plan:
        for _ in range(turns):
            drawn.append(init.normal_(torch.empty(4)))
            await asyncio.sleep(0)
            assert current() is plan
            drawn.append(nn.init.uniform_(torch.empty(4)))
            await asyncio.sleep(0)
    return drawn


def test_interleaved_tasks_draw_as_alone() -> None:
    alone = [asyncio.run(drawing(seed, 3)) for seed in range(4)]

    async def together() -> list[list[Tensor]]:
        return await asyncio.gather(*(drawing(seed, 3 + seed) for seed in range(4)))

    for one, other in zip(alone, asyncio.run(together()), strict=True):
        assert all(map(torch.equal, one, other[: len(one)]))
    assert torch_private.function_modes() == []


def test_a_task_beside_a_plan_has_none() -> None:
    async def beside() -> None:
        assert current() is None
        assert init.ones_(torch.empty(2)).tolist() == [1.0, 1.0]
        w = torch.empty(2)
        nn.init.constant_(w, 3)
        assert w.tolist() == [3.0, 3.0]

    async def main() -> None:
        task = asyncio.create_task(beside())  # before the plan is open: not part of it
        with fused():
            x = init.ones_(torch.empty(2))
            await task
        assert x.tolist() == [1.0, 1.0]

    asyncio.run(main())


def test_what_outlives_the_plan_has_none() -> None:
    with fused():
        inside = contextvars.copy_context()

    def late() -> list[float]:
        assert current() is None
        return init.ones_(torch.empty(2)).tolist()

    assert inside.run(late) == [1.0, 1.0]


def test_a_copied_context_in_another_thread_has_none() -> None:
    with fused():
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(context.run, current).result() is None
            filled = pool.submit(context.run, lambda: init.ones_(torch.empty(2)).tolist())
            assert filled.result() == [1.0, 1.0]


class TestSeedsOfThreads:
    def test_builds_in_threads_are_as_alone(self) -> None:
        alone = [values(fastinit.build(model, seed=seed)) for seed in range(4)]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(10):
                built = pool.map(lambda s: values(fastinit.build(model, seed=s)), range(4))
                assert all(map(torch.equal, built, alone))

    def test_the_callers_generator_is_as_before(self) -> None:
        torch.manual_seed(1)
        expected = torch.rand(1000)
        torch.manual_seed(1)
        fastinit.build(model, seed=0)
        assert torch.equal(torch.rand(1000), expected)

    def test_other_threads_draw_on(self) -> None:
        """Their draws are those of one undisturbed generator, none of them twice."""
        torch.manual_seed(1)
        expected = torch.rand(3000)
        torch.manual_seed(1)
        drawn: list[float] = []

        def draws() -> None:
            while len(drawn) < 3000:
                drawn.append(torch.rand(1).item())

        other = threading.Thread(target=draws)
        other.start()
        while other.is_alive():
            fastinit.build(noisy, seed=0)
        assert drawn == expected.tolist()

    def test_manual_seed_inside(self) -> None:
        """Code that seeds torch itself gets what it asks for; so does code that restores states."""

        def reseeds() -> nn.Module:
            net = nn.Identity()
            first = torch.rand(2)
            with torch.random.fork_rng():
                torch.manual_seed(7)
                net.register_buffer("seeded", torch.rand(3))
            net.register_buffer("after", torch.cat([first, torch.rand(3)]))
            state = torch.get_rng_state()
            net.register_buffer("one", torch.rand(3))
            torch.set_rng_state(state)
            net.register_buffer("two", torch.rand(3))
            return net

        torch.manual_seed(5)
        expected = reseeds()
        built = fastinit.build(reseeds, seed=5)
        for name in ("seeded", "after", "one", "two"):
            assert torch.equal(getattr(built, name), getattr(expected, name)), name
        assert torch.equal(built.one, built.two)
