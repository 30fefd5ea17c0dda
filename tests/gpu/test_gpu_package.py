"""The package on a GPU: whole models, errors, what goes to torch, what show_config says."""

from __future__ import annotations

import pytest
import torch
from launching import (
    DTYPES,
    GPU,
    NORMAL,
    Many,
    fill,
    fill_cpu,
    fill_in_tiles,
    pair,
    require_kernel,
    row,
    run_python,
    same,
    seeded,
)
from torch import nn

import fastinit
from examples.llama import SMALL, decoder
from fastinit import _C, init
from fastinit.capture.opened import opened
from fastinit.kernels.supported import is_supported

if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU", allow_module_level=True)

CPU = torch.device("cpu")


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncated", [False, True], ids=["normal", "truncated"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_model_gets_the_same_weights_as_on_the_cpu(dtype: torch.dtype, truncated: bool) -> None:
    model, twin = (
        decoder(sizes=SMALL, device=device, dtype=dtype, truncated=truncated)
        for device in (GPU, CPU)
    )
    for each in (model, twin):
        seeded(each.init_weights)
    for name, parameter in model.named_parameters():
        assert same(parameter, twin.get_parameter(name)), name


class Mixed(fastinit.BaseModule):
    """A part on the GPU, a part on the CPU."""

    def __init__(self) -> None:
        super().__init__(init_cfg=dict(type="Kaiming", layer="Linear"))
        self.there, self.here = nn.Linear(50, 70, device=GPU), nn.Linear(50, 70)


def test_a_plan_over_cpu_and_gpu() -> None:
    model = Mixed()
    seeded(model.init_weights)
    twin = Mixed()
    twin.there.to("cpu")
    seeded(twin.init_weights)
    assert model.there.weight.is_cuda
    for name, parameter in model.named_parameters():
        assert same(parameter, twin.get_parameter(name)), name


def test_what_is_read_was_filled_first() -> None:
    class Reader(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.empty(1000, device=GPU)) for _ in range(2))

        def init_weights(self) -> None:
            init.normal_(self.a)
            with torch.no_grad():
                self.b.copy_(self.a * 2)
            init.constant_(self.a, 3.0)

    model = Reader()
    model.init_weights()
    assert abs(float(model.b.detach().std()) - 2) < 0.3
    assert bool((model.a == 3).all())


def test_every_function_equals_the_cpus() -> None:
    for function in (
        init.uniform_,
        init.normal_,
        init.trunc_normal_,
        init.ones_,
        init.zeros_,
        init.xavier_uniform_,
        init.xavier_normal_,
        init.kaiming_uniform_,
        init.kaiming_normal_,
    ):
        found, expected = torch.empty(30, 50, device=GPU), torch.empty(30, 50)
        for tensor in (found, expected):
            seeded(lambda tensor=tensor, function=function: function(tensor))
        assert same(found, expected), function.__name__


def test_autograd_is_told() -> None:
    weight = torch.ones(10, device=GPU, requires_grad=True)
    loss = (weight * weight).sum()
    init.normal_(weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_two_fills_differ_and_a_seed_repeats() -> None:
    x = torch.empty(1000, device=GPU)
    seeded(lambda: init.normal_(x))
    first = x.clone()
    init.normal_(x)
    assert not same(x, first)
    seeded(lambda: init.normal_(x))
    assert same(x, first)


def test_the_torch_backend_is_torch() -> None:
    ours, theirs = torch.empty(1000, device=GPU), torch.empty(1000, device=GPU)
    with fastinit.backend("torch"):
        seeded(lambda: init.normal_(ours))
    seeded(lambda: nn.init.normal_(theirs))
    assert same(ours, theirs)


def test_other_dtypes_go_to_torch() -> None:
    x = torch.empty(10, dtype=torch.complex64, device=GPU)
    assert not is_supported(x)
    init.constant_(x, 2.0)
    assert bool((x == 2).all())


# --- errors ---------------------------------------------------------------------------------------


def test_memory_that_no_gpu_knows_is_refused_and_named() -> None:
    require_kernel()
    host = torch.zeros(100)
    batch, *rest = _C.cuda_pack([row(host, NORMAL)])
    assert rest == []
    with pytest.raises(_C.CudaError, match=rf"pointer {host.data_ptr()} is not memory of a GPU"):
        _C.cuda_launch(GPU.index, 0, batch)
    assert bool((host == 0).all())
    test_the_device_still_works()


def test_the_device_still_works() -> None:
    found, expected = pair(1000, torch.float32)
    fill([row(found, NORMAL)])
    fill_cpu([row(expected, NORMAL)])
    assert same(found, expected)


def test_one_wrong_pointer_among_many_stops_the_launch() -> None:
    found, _ = pair(1000, torch.float32)
    host = torch.zeros(100)
    with pytest.raises(RuntimeError, match=str(host.data_ptr())):
        fill([row(found, NORMAL), row(host, NORMAL)])
    assert bool((found == 7).all())


def test_an_overlap_is_refused() -> None:
    found, _ = pair(1000, torch.float32)
    with pytest.raises(_C.OverlapError):
        fill([row(found, NORMAL), row(found[10:], NORMAL)])
    assert bool((found == 7).all())


def test_a_device_that_does_not_exist_is_named() -> None:
    assert issubclass(_C.CudaError, RuntimeError)
    with pytest.raises(_C.CudaError, match=r"CUDA device 99: \w+INVALID_DEVICE"):
        _C.cuda_load(99, b"no image is looked at")
    (batch,) = _C.cuda_pack([row(torch.empty(1, device=GPU), NORMAL)])
    with pytest.raises(_C.CudaError, match="CUDA device 99: its kernel was not loaded"):
        _C.cuda_launch(99, 0, batch)


def test_a_table_too_long_for_a_launch_is_refused() -> None:
    require_kernel()
    x = torch.empty(100, 10, device=GPU)
    (batch,) = _C.cuda_pack([row(x[n], NORMAL) for n in range(100)])
    with pytest.raises(_C.CudaError, match="too long for the arguments"):
        _C.cuda_launch(GPU.index, 0, batch)
    fill_in_tiles([row(x[n], NORMAL) for n in range(100)], 256)


# --- the kernel and the devices -------------------------------------------------------------------


def test_show_config_names_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    require_kernel()
    fastinit.show_config()
    line = next(line for line in capsys.readouterr().out.splitlines() if "CUDA" in line)
    assert "cuda:0 native" in line
    assert "compiled" in line  # for its architecture, or not ahead of time


def test_the_kernel_compiled_at_run_time_writes_the_same() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings")
    printed = run_python(
        """
import torch
from fastinit import _C
from fastinit.kernels import nvrtc
_C.cuda_load(0, nvrtc.compiled(_C.CUDA_SOURCE, torch.cuda.get_device_capability(0)))
from launching import DTYPES, RULES, fill, fill_cpu, pair, row, same
for dtype in DTYPES:
    for rule in RULES:
        found, expected = pair(70_003, dtype)
        fill([row(found, rule)])
        fill_cpu([row(expected, rule)])
        assert same(found, expected), (dtype, rule)
print("equal")
"""
    )
    assert printed.split() == ["equal"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_second_device() -> None:
    second = torch.device("cuda", 1)
    torch.cuda.set_device(0)
    one, two, here = Many(30, second), Many(30, GPU), Many(30, CPU)
    for model in (one, two, here):
        seeded(model.init_weights)
    assert one.equals(here)
    assert two.equals(here)
    assert torch.cuda.current_device() == 0
    spread = nn.ParameterList([torch.empty(1000, device=device) for device in (GPU, second)])
    torch.manual_seed(0)
    with opened(spread):
        for parameter in spread:
            init.normal_(parameter)
    assert not same(spread[0], spread[1])
    assert abs(float(spread[1].detach().std()) - 1) < 0.2
