"""Fills as work of a stream: their order, the memory they use, graphs that capture them, and that
nothing waits for them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from launching import GPU, NORMAL, WAIT, Many, fill, mixed, row, run_python, same, seeded

from examples.llama import SMALL, decoder
from fastinit import _C, init
from fastinit.capture.opened import opened

if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU", allow_module_level=True)

CPU = torch.device("cpu")
LARGE = 1 << 22


def normal(n: int, seed: int = 0) -> torch.Tensor:
    """What init.normal_ writes after torch.manual_seed(seed), from the CPU."""
    expected = torch.empty(n)
    seeded(lambda: init.normal_(expected), seed)
    return expected


@contextmanager
def no_synchronization() -> Iterator[None]:
    """torch raises where it would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def idle() -> Iterator[None]:
    """No test's work is left to the next."""
    yield
    torch.cuda.synchronize()


# --- order ----------------------------------------------------------------------------------------


def test_a_fill_is_work_of_the_current_stream() -> None:
    x = torch.empty(LARGE, device=GPU)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(WAIT)
        x.fill_(7)
        seeded(lambda: init.normal_(x))  # elsewhere it would come before the 7
        after = x.clone()
        x.fill_(8)  # and elsewhere perhaps after the 8
    side.synchronize()
    assert same(after, normal(LARGE))
    assert bool((x == 8).all())


def test_events_order_a_fill_on_a_side_stream() -> None:
    x = torch.empty(LARGE, device=GPU)
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    torch.cuda._sleep(WAIT)
    x.fill_(7)
    ready = main.record_event()
    with torch.cuda.stream(side):
        side.wait_event(ready)
        seeded(lambda: init.normal_(x))
        done = side.record_event()
    main.wait_event(done)
    after = x.clone()
    assert same(after, normal(LARGE))


def test_a_plan_fills_each_tensor_on_the_stream_of_its_call() -> None:
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.empty(LARGE)) for _ in range(2)])
    twin = torch.nn.ParameterList([torch.nn.Parameter(torch.empty(LARGE)) for _ in range(2)])
    model.to(GPU)
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    for stream, parameter in zip(streams, model, strict=True):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(WAIT)
            parameter.data.fill_(7)
    torch.manual_seed(0)
    with opened(model):
        for stream, parameter in zip(streams, model, strict=True):
            with torch.cuda.stream(stream):
                init.normal_(parameter)
    afters = []
    for stream, parameter in zip(streams, model, strict=True):
        with torch.cuda.stream(stream):
            afters.append(parameter.detach().clone())
            parameter.data.fill_(8)
    torch.manual_seed(0)
    with opened(twin):
        for parameter in twin:
            init.normal_(parameter)
    torch.cuda.synchronize()
    for after, parameter, expected in zip(afters, model, twin, strict=True):
        assert same(after, expected)
        assert bool((parameter == 8).all())


def test_what_waited_for_the_call_of_a_fill_has_waited_for_the_fill() -> None:
    """A plan launches later than the call, when the waiting that the code did is over."""
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.empty(LARGE, device=GPU))])
    [parameter] = model
    parameter.data.fill_(7)
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    torch.manual_seed(0)
    with opened(model):
        with torch.cuda.stream(side):
            init.normal_(parameter)
        main.wait_stream(side)
        with torch.cuda.stream(side):
            torch.cuda._sleep(WAIT)
        inside = parameter.detach().clone()
    assert bool((inside != 7).all())
    assert same(inside, parameter.detach())


def test_a_fill_in_a_thread_goes_to_the_threads_stream() -> None:
    printed = run_python(
        """
import threading, torch
from fastinit import init
x, y = (torch.empty(1000, device="cuda") for _ in range(2))
side = torch.cuda.Stream()
torch.cuda.synchronize()
def work():
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        x.fill_(7)
        init.normal_(x)
        side.synchronize()
thread = threading.Thread(target=work)
thread.start()
init.normal_(y)
thread.join()
torch.cuda.synchronize()
print(bool((x != 7).all()), bool(abs(y.std() - 1) < 0.2))
"""
    )
    assert printed.split() == ["True", "True"]


# --- memory ---------------------------------------------------------------------------------------


def test_memory_may_be_freed_and_taken_again_at_once() -> None:
    torch.cuda._sleep(WAIT)
    x = torch.empty(LARGE, device=GPU)
    address = x.data_ptr()
    init.normal_(x)
    del x
    y = torch.empty(LARGE, device=GPU)
    y.fill_(3)
    assert y.data_ptr() == address  # the same memory, or this would show nothing
    torch.cuda.synchronize()
    assert bool((y == 3).all())


def test_the_table_of_a_plan_is_kept_until_it_was_read() -> None:
    model, twin = Many(2000, GPU, size=10), Many(2000, CPU, size=10)
    seeded(twin.init_weights)
    seeded(model.init_weights, 1)  # so that the allocators hold blocks of the table's size
    torch.cuda.synchronize()
    torch.cuda._sleep(WAIT)
    seeded(model.init_weights)
    nbytes = 1 << 20  # larger than the table, and smaller
    kept = []
    for size in (nbytes // 4, nbytes // 2, nbytes, 2 * nbytes):
        for _ in range(4):
            kept.append(torch.empty(size, dtype=torch.uint8, pin_memory=True).fill_(255))
            kept.append(torch.empty(size, dtype=torch.uint8, device=GPU).fill_(255))
    torch.cuda.synchronize()
    assert model.equals(twin)


def test_the_table_of_a_plan_on_a_side_stream_is_kept_too() -> None:
    model, twin = Many(500, GPU, size=10), Many(500, CPU, size=10)
    seeded(twin.init_weights)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(WAIT)
        seeded(model.init_weights)
    # The default stream is not behind the wait, and overwrites what it is given at once.
    kept = [torch.empty(1 << n, dtype=torch.uint8, device=GPU).fill_(255) for n in range(9, 22)]
    torch.cuda.synchronize()
    assert model.equals(twin)
    assert len(kept) == 13


def test_filling_keeps_no_memory() -> None:
    model = Many(200, GPU)
    model.init_weights()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        model.init_weights()
    torch.cuda.synchronize()
    gc.collect()
    assert torch.cuda.memory_allocated() == before


# --- waiting --------------------------------------------------------------------------------------


def renewed(model: torch.nn.Module) -> torch.nn.Module:
    """Lets init_weights run again."""
    for module in model.modules():
        if hasattr(module, "is_init"):
            module.is_init = False
    return model


def test_init_weights_does_not_wait() -> None:
    model, twin = decoder(sizes=SMALL, device=GPU), decoder(sizes=SMALL)
    model.init_weights()  # the first loads the kernel
    renewed(model)
    torch.cuda.synchronize()
    seeded(twin.init_weights)
    torch.manual_seed(0)
    torch.cuda._sleep(10 * WAIT)
    stream = torch.cuda.current_stream()
    with no_synchronization():
        model.init_weights()
        returned_before = not stream.query()
    assert returned_before
    for name, parameter in model.named_parameters():
        assert same(parameter, twin.get_parameter(name)), name


def test_single_fills_do_not_wait() -> None:
    x = torch.empty(1000, device=GPU)
    init.normal_(x)
    with no_synchronization():
        init.normal_(x)
        init.ones_(x)
        init.trunc_normal_(x)
        init.kaiming_uniform_(x.view(10, 100))
        init.normal_(x, generator=torch.Generator())


def test_only_a_generator_on_the_gpu_is_waited_for() -> None:
    x = torch.empty(1000, device=GPU)
    generator = torch.Generator(GPU)
    init.normal_(x, generator=generator.manual_seed(1))
    first = x.clone()
    init.normal_(x, generator=generator.manual_seed(1))
    assert same(x, first)
    with no_synchronization(), pytest.raises(RuntimeError, match="synchroniz"):
        init.normal_(x, generator=generator)


# --- graphs ---------------------------------------------------------------------------------------


def test_a_captured_fill_writes_the_same_at_every_replay() -> None:
    x = torch.empty(LARGE, device=GPU)
    init.normal_(x)
    graph = torch.cuda.CUDAGraph()
    torch.manual_seed(0)
    with torch.cuda.graph(graph):
        init.normal_(x)
    for _ in range(2):
        x.fill_(7)
        graph.replay()
        assert same(x, normal(LARGE))


def test_a_captured_model_writes_the_same_at_every_replay() -> None:
    model, twin = Many(75, GPU), Many(75, CPU)  # several launches: a table is not uploaded
    seeded(twin.init_weights)
    model.init_weights()
    graph = torch.cuda.CUDAGraph()
    torch.manual_seed(0)
    with torch.cuda.graph(graph):
        model.init_weights()
    for _ in range(2):
        for weight in model.weights:
            weight.data.fill_(7)
        kept = [torch.empty(1 << 20, dtype=torch.uint8, device=GPU).fill_(255) for _ in range(4)]
        graph.replay()
        torch.cuda.synchronize()
        assert model.equals(twin)
        assert len(kept) == 4


def test_what_waits_when_a_capture_begins_is_not_captured() -> None:
    module = torch.nn.Linear(1000, 1000, bias=False, device=GPU)
    x = module.weight.detach()
    graph = torch.cuda.CUDAGraph()
    torch.manual_seed(0)
    with opened(module):
        init.normal_(module.weight)
        with torch.cuda.graph(graph):
            y = x * 2
        torch.cuda.synchronize()
        assert same(x.view(-1), normal(10**6)), "it is there before any replay"
        x.fill_(5)
        graph.replay()
    torch.cuda.synchronize()
    assert bool((x == 5).all())
    assert bool((y == 10).all())


def test_an_event_covers_what_waits() -> None:
    module = torch.nn.Linear(1000, 1000, bias=False, device=GPU)
    found = torch.empty_like(module.weight)
    event = torch.cuda.Event()
    with opened(module):
        init.normal_(module.weight)
        event.record()
        with torch.cuda.stream(torch.cuda.Stream()), torch._C.DisableTorchFunction():
            event.synchronize()
            found.copy_(module.weight)  # which the plan does not see
    torch.cuda.synchronize()
    assert float(found.std()) > 0.9


def test_a_capture_may_hold_the_first_fill_of_a_process() -> None:
    printed = run_python(
        """
import torch
from fastinit import init
x = torch.full((1000,), 7.0, device="cuda")
graph = torch.cuda.CUDAGraph()
torch.manual_seed(0)
with torch.cuda.graph(graph):
    init.normal_(x)
graph.replay()
expected = torch.empty(1000)
torch.manual_seed(0)
init.normal_(expected)
print(torch.equal(x.cpu(), expected))
"""
    )
    assert printed.split() == ["True"]


def test_a_capture_may_read_what_it_filled() -> None:
    x, y = torch.empty(1000, device=GPU), torch.empty(1000, device=GPU)
    init.normal_(x)
    graph = torch.cuda.CUDAGraph()
    torch.manual_seed(0)
    with torch.cuda.graph(graph):
        init.normal_(x)
        y.copy_(x * 2)
    graph.replay()
    assert same(y, normal(1000) * 2)


# --- under compute-sanitizer ----------------------------------------------------------------------


@pytest.mark.sanitized
def test_a_plan_of_many_small_tensors() -> None:
    model, twin = Many(60, GPU, size=30), Many(60, CPU, size=30)
    for each in (model, twin):
        seeded(each.init_weights)
    assert model.equals(twin)


@pytest.mark.sanitized
def test_a_batch_that_travels_with_the_launch_and_one_that_does_not() -> None:
    for count in (1, 3, 100):
        found, table = mixed(count, 5, GPU)
        expected, cpu_table = mixed(count, 5, CPU)
        fill(table)
        _C.fill(cpu_table)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a.bytes.cpu(), b.bytes)
    nothing = torch.empty(0, device=GPU)
    fill([row(nothing, NORMAL)])
    fill([])
