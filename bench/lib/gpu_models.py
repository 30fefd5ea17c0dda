"""Many tensors and whole models on a GPU: torch.nn.init in a loop, mmengine where it is installed,
and fastinit."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastinit
from bench.lib import gpu_calls
from bench.lib.cases import Case, llama, small_tensors
from bench.lib.gpu_timing import CLOCKS, Goal, require_equal, seeded
from bench.lib.rules import Rule
from bench.lib.timing import Clock, Times, alternate, wall_clock
from examples.llama import SMALL, Sizes
from fastinit.kernels import cuda

LLAMA_7B = Sizes(layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32)
MANY_GOALS = (Goal("wall_ratio", 2.5), Goal("launches", 1, at_most=True))
MODEL_GOALS: tuple[Goal, ...] = (Goal("launches", 1, at_most=True),)
MMENGINE_GOAL = Goal("wall_over_mmengine", 10.0)


class Loop(fastinit.BaseModule):
    """Parameters that an `init_weights` of its own fills in a loop, as user code does."""

    def __init__(self, parameters: Sequence[Tensor], rule: Rule) -> None:
        super().__init__()
        self.registered = nn.ParameterList(parameters)
        self.filled = list(parameters)  # as plain as the list that torch's loop runs over
        self.rule = rule

    def init_weights(self) -> None:
        for tensor in self.filled:
            self.rule.apply(fastinit.init, tensor)


class Subject:
    """A case built once on the device; what the competitors' modules write is the same memory."""

    def __init__(self, case: Case, dtype: torch.dtype, device: str) -> None:
        self.case = case
        self.model = case.build(fastinit, device=device, dtype=dtype)
        self.grouped = case.grouped(self.model)
        self.modules: dict[str, nn.Module] = {"fastinit": self.model}
        mmengine = quiet_mmengine()
        if mmengine is not None:
            twin = case.build(mmengine, device="meta", dtype=dtype)
            twin.load_state_dict(self.model.state_dict(keep_vars=True), assign=True)
            self.modules["mmengine"] = twin

    def competitors(self) -> dict[str, Callable[[], object]]:
        """torch.nn.init in a loop, and each module's init_weights."""
        return {
            "torch": self.torch_loop,
            **{name: partial(self.initialise, name) for name in self.modules},
        }

    def torch_loop(self) -> None:
        for rule, parameters in self.grouped.values():
            for parameter in parameters:
                rule.apply(torch.nn.init, parameter)

    def initialise(self, name: str) -> None:
        self.modules[name].init_weights()

    def renew(self, name: str) -> None:
        """What is not timed: lets an init_weights run again."""
        for module in self.modules[name].modules() if name in self.modules else ():
            if hasattr(module, "is_init"):
                module.is_init = False

    def require_equal(self) -> None:
        """Compares every parameter with the CPU's, which is the warm-up too."""
        self.renew("fastinit")
        seed = seeded(partial(self.initialise, "fastinit"))
        rules = {id(p): rule for rule, parameters in self.grouped.values() for p in parameters}
        for name, parameter in self.model.named_parameters():
            require_equal(rules[id(parameter)], parameter, seed, name)


def launches_of(run: Callable[[], object]) -> int:
    """Runs something; returns how many tables were launched."""
    count = 0
    launch = cuda._launch

    def counted(*args: Any) -> None:
        nonlocal count
        count += 1
        launch(*args)

    cuda._launch = counted
    try:
        run()
    finally:
        cuda._launch = launch
    return count


def measurements(
    arguments: argparse.Namespace,
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yields the measurements of models, of many tensors and of calls."""
    on_gpu = arguments.device == "cuda"
    clocks = CLOCKS if on_gpu else dict.fromkeys(CLOCKS, wall_clock)
    given: dict[str, Any] = {"rounds": arguments.rounds, "device": arguments.device}
    quick = arguments.quick
    large = llama("llama-small", SMALL) if quick else llama("llama-7b", LLAMA_7B)
    one = llama("llama-small", SMALL) if quick else llama("llama-1.1b", Sizes())
    measure = partial(measure_model, clocks=clocks, **given)
    yield "7 B in bf16", partial(measure, large, torch.bfloat16)
    yield "1.1 B in fp32", partial(measure, one, torch.float32)
    for count in (100,) if quick else (1000, 10_000):
        yield f"{count} tensors", partial(measure_many, count, clocks=clocks, **given)
    yield "a call", partial(gpu_calls.measure_call, **given)
    yield "a graph", partial(gpu_calls.measure_graph, **given)
    yield "a process", partial(gpu_calls.measure_cold, device=arguments.device)


def quiet_mmengine() -> Any:
    """mmengine.model, its logger silent; None where it is not installed."""
    try:
        import mmengine.model

        from bench.models import quiet
    except ImportError:
        return None
    quiet()
    return mmengine.model


def timed(
    subject: Subject,
    competitors: Mapping[str, Callable[[], object]],
    rounds: int,
    clocks: Mapping[str, Clock],
) -> dict[str, dict[str, Times]]:
    """Times by every clock, after one round that warms up."""
    for name, run in competitors.items():
        subject.renew(name)
        run()
    return {
        label: alternate(competitors, rounds=rounds, before=subject.renew, clock=clock)
        for label, clock in clocks.items()
    }


def summaries(times: Mapping[str, Mapping[str, Times]]) -> dict[str, dict[str, Any]]:
    return {
        clock: {name: result.summary() for name, result in by_name.items()}
        for clock, by_name in times.items()
    }


def measure_many(
    count: int = 1000,
    width: int = 64,
    *,
    rounds: int,
    device: str = "cuda",
    clocks: Mapping[str, Clock] = CLOCKS,
) -> dict[str, Any]:
    """Times `count` weights of `width` x `width`: what a fill costs before its first element.

    `fastinit` carries out an init_cfg, `fastinit loop` is an init_weights that calls fastinit.init
    for each tensor, the counterpart of torch's loop; `device_ratio` and `wall_ratio` are torch's
    times over those of the latter.
    """
    subject = Subject(small_tensors(count, width), torch.float32, device)
    subject.require_equal()
    (rule, parameters), *_ = subject.grouped.values()
    loop = Loop(parameters, rule)
    competitors = {**subject.competitors(), "fastinit loop": loop.init_weights}
    launches = launches_of(lambda: loop.init_weights())
    # Torch's launches fill the queue behind a head start: its time is that of the wall.
    times = timed(subject, competitors, rounds, {k: v for k, v in clocks.items() if k != "device"})
    figures = {
        "wall_ratio": times["wall"]["torch"].over(times["wall"]["fastinit loop"]),
        "call_ms": 1e3 * times["call"]["fastinit loop"].median,
        "launches": launches,
    }
    goals = [goal for goal in MANY_GOALS if goal.figure != "launches" or device == "cuda"]
    if count == 10_000:
        goals.append(Goal("call_ms", 8.0, at_most=True))
    return {
        "record": "many",
        "case": subject.case.name,
        "tensors": count,
        "elements": count * width**2,
        **figures,
        "goals": [goal.judge(figures) for goal in goals],
        "times": summaries(times),
    }


def measure_model(
    case: Case,
    dtype: torch.dtype = torch.bfloat16,
    *,
    rounds: int,
    device: str = "cuda",
    clocks: Mapping[str, Clock] = CLOCKS,
) -> dict[str, Any]:
    """Times init_weights of a model, from its second call on.

    `wall_ms` ends when the GPU is done, `call_ms` when init_weights returns.
    """
    subject = Subject(case, dtype, device)
    subject.require_equal()
    subject.renew("fastinit")
    launches = launches_of(partial(subject.initialise, "fastinit"))
    times = timed(subject, subject.competitors(), rounds, clocks)
    wall = times["wall"]
    goals = MODEL_GOALS if device == "cuda" else ()
    figures = {
        "launches": launches,
        "wall_ms": 1e3 * wall["fastinit"].median,
        "call_ms": 1e3 * times["call"]["fastinit"].median,
        "device_ms": 1e3 * times["device"]["fastinit"].median,
        "wall_over_torch": wall["torch"].over(wall["fastinit"]),
    }
    if "mmengine" in wall:
        figures["wall_over_mmengine"] = wall["mmengine"].over(wall["fastinit"])
        goals = (*goals, MMENGINE_GOAL)
    return {
        "record": "model",
        "case": case.name,
        "dtype": str(dtype).removeprefix("torch."),
        "elements": sum(p.numel() for p in subject.model.parameters()),
        "tensors": sum(1 for _ in subject.model.parameters()),
        **figures,
        "goals": [goal.judge(figures) for goal in goals],
        "times": summaries(times),
    }
