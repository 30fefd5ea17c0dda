"""The frontend's path to a GPU, on a machine without one: `fake_cuda` stands in for the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import fake_cuda
import pytest
import torch
from filling import KINDS, same
from modules import copied
from torch import nn

import fastinit
from fastinit import _C, init
from fastinit.capture.patches import PATCHES
from fastinit.kernels import cuda, supported
from fastinit.kernels.cuda import Place
from fastinit.plan import plan as plans
from fastinit.plan import write
from fastinit.tensors import torch_private
from fastinit.tensors.parts import parts
from fastinit.tensors.torch_private import EAGER

# --- plans ----------------------------------------------------------------------------------------


class Stream:
    """A stream, as the frontend orders it among others."""

    def __init__(self, place: Place, order: list[str]) -> None:
        self.place, self._order = place, order

    def wait_stream(self, other: Stream) -> None:
        self._order.append(f"{tuple(self.place)} waits for {tuple(other.place)}")


class OnGpu:
    """Lets the frontend, or the recorder, take this machine's tensors for a GPU's."""

    def __init__(
        self, driver: fake_cuda.FakeDriver, by: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._driver = driver
        self.place = Place(0, 0)
        self.uploads: list[int] = []
        devices: dict[int, int] = {}

        def upload(table: torch.Tensor, device: int) -> torch.Tensor:
            self.uploads.append(device)
            return table.clone()

        def stream(device: int) -> int:
            return self.place.stream if self.place.device == device else 0

        def place_of(tensor: torch.Tensor) -> Place:
            device = devices.get(tensor.data_ptr(), self.place.device)
            return Place(device, stream(device))

        if by == "python":
            _C.enable(False)  # the recorder leaves all calls to Python
        else:
            own = {"exchange": driver.exchange, "cuda_stream": stream, "parts": parts}
            _C.bind({**torch_private.for_recorder(), **own})
            driver.put_all(0)
        self.order: list[str] = []
        streams = {Place(d, s): Stream(Place(d, s), self.order) for d in (0, 1) for s in (0, 8)}

        def enter(stream: Stream) -> Any:
            self.order.append(f"launch on {tuple(stream.place)}")
            return nullcontext()

        def current_stream(device: int) -> Stream:
            return streams[self.place if self.place.device == device else Place(device, 0)]

        self._devices = devices
        monkeypatch.setattr(write, "place_of", place_of)
        monkeypatch.setattr(plans, "current_places", lambda: [Place(d, stream(d)) for d in (0, 1)])
        monkeypatch.setattr(torch_private, "current_stream", stream)
        monkeypatch.setattr(cuda, "_upload", upload)
        monkeypatch.setattr(cuda, "_streams", streams)
        monkeypatch.setattr(torch.cuda, "stream", enter)
        monkeypatch.setattr(torch.cuda, "current_stream", current_stream)

    def put(self, tensor: torch.Tensor, device: int) -> None:
        self._devices[tensor.data_ptr()] = device
        self._driver.put(tensor.data_ptr(), device)

    def capture(self, is_capturing: bool) -> None:
        """Whether the current stream is being captured."""
        self._driver.capture(self.place.stream if is_capturing else None)


MakeGpu = Callable[[], OnGpu]


@pytest.fixture(params=["python", "recorder"])
def make_gpu(
    request: pytest.FixtureRequest,
    driver: fake_cuda.FakeDriver,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[MakeGpu]:
    if request.param == "recorder" and torch_private.for_recorder()["exchange"] is None:
        pytest.skip("this torch has no exchange table of DLPack, so that Python serves GPUs")
    yield lambda: OnGpu(driver, request.param, monkeypatch)
    _C.enable(True)
    _C.bind({**torch_private.for_recorder(), "parts": parts})
    driver.put_all(-1)
    driver.capture(None)


@pytest.fixture
def gpu(make_gpu: MakeGpu) -> OnGpu:
    return make_gpu()


def initialised(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    model.init_weights()
    return copied(model)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def deep() -> nn.Module:
    """More segments than travel with a launch."""
    layers = [nn.Linear(30, 30) for _ in range(40)]
    return fastinit.Sequential(*layers, init_cfg={"type": "Kaiming", "layer": "Linear"})


def test_a_model_is_one_launch_with_the_cpus_values(
    driver: fake_cuda.FakeDriver, make_gpu: MakeGpu
) -> None:
    expected = initialised(deep())
    gpu = make_gpu()
    assert equal(initialised(deep()), expected)
    [launch] = driver.launches
    assert not launch.is_inline
    assert gpu.uploads == [0]
    assert driver.pointers_asked == 0, "torch has said where memory is"


def test_a_captured_plan_travels_with_its_launches(
    driver: fake_cuda.FakeDriver, make_gpu: MakeGpu
) -> None:
    expected = initialised(deep())
    gpu = make_gpu()
    gpu.capture(True)
    assert equal(initialised(deep()), expected)
    assert len(driver.launches) == 80, "a launch for every parameter, as without a plan"
    assert all(launch.is_inline for launch in driver.launches)
    assert not gpu.uploads


def patched(name: str, order: list[str]) -> Callable[..., None]:
    """A method of torch's as a plan sees it, which writes its name down."""
    [patch] = [p for p in PATCHES if p.name == name and p.owner.__module__.startswith("torch.cuda")]
    assert hasattr(getattr(patch.owner, name), EAGER), "it is not installed"
    return patch.around(lambda *_: order.append(name))


@pytest.mark.parametrize("name", ["capture_begin", "record"])
def test_what_waits_is_launched_first(driver: fake_cuda.FakeDriver, gpu: OnGpu, name: str) -> None:
    call = patched(name, gpu.order)
    linear, other = nn.Linear(3, 3), torch.zeros(5)
    with fastinit.fused(root=linear):
        init.normal_(linear.weight)
        init.normal_(other)
        assert not driver.launches
        call()
        assert len(driver.launches) == 1
        assert gpu.order[-1] == name
        call()
    assert len(driver.launches) == 1


@pytest.mark.parametrize("make_gpu", ["recorder"], indirect=True)
@pytest.mark.parametrize("is_held", [False, True])
def test_what_moves_to_a_gpu_is_there_first(
    driver: fake_cuda.FakeDriver, make_gpu: MakeGpu, is_held: bool
) -> None:
    """A cast that waits takes fills of the CPU along, or copies."""
    call = patched("capture_begin", [])
    gpu = make_gpu()
    source = torch.zeros(64)
    gpu.put(source, -1)
    with fastinit.fused(seed=3) as plan:
        init.normal_(source)
        target = source.double()
        held = source if is_held else None
        del source
        assert plan.pending.has_casts
        assert plan.pending.has_launches
        call()
        assert not plan.pending, "the capture would begin with it"
    assert bool(target.any())
    assert held is None or bool(held.any())


def test_an_event_while_a_launch_is_made(driver: fake_cuda.FakeDriver, gpu: OnGpu) -> None:
    """As `wait_stream` records one, where another stream is current at the launch."""
    record = patched("record", [])
    for stream in cuda._streams.values():
        stream.wait_stream = lambda other: record()  # type: ignore[method-assign]
    linear = nn.Linear(3, 3)
    with fastinit.fused(root=linear):
        init.normal_(linear.weight)
        gpu.place = Place(0, 8)
    assert len(driver.launches) == 1


def test_what_is_captured_within_a_plan_is_launched_within_the_capture(
    driver: fake_cuda.FakeDriver, gpu: OnGpu
) -> None:
    class Captures(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def init_weights(self) -> None:
            init.normal_(self.first.weight)
            gpu.capture(True)
            init.normal_(self.second.weight)
            self.launches = len(driver.launches)
            gpu.capture(False)

    model = Captures()
    model.init_weights()
    assert model.launches == 1
    assert len(driver.launches) == 2


def test_a_launch_for_every_device(driver: fake_cuda.FakeDriver, gpu: OnGpu) -> None:
    model = deep()
    for layer in list(model)[20:]:
        gpu.put(layer.weight, 1)
        gpu.put(layer.bias, 1)
    model.init_weights()
    assert sorted(launch.device for launch in driver.launches) == [0, 1]
    assert gpu.order == []


def test_a_fill_is_on_the_stream_of_its_call(driver: fake_cuda.FakeDriver, gpu: OnGpu) -> None:
    class TwoStreams(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def init_weights(self) -> None:
            init.normal_(self.first.weight)
            gpu.place = Place(0, 8)
            init.normal_(self.second.weight)
            gpu.place = Place(0, 0)

    TwoStreams().init_weights()
    # That on another stream at once; and the stream is current, so that nothing has to wait.
    assert [launch.stream for launch in driver.launches] == [8, 0]
    assert gpu.order == []


def test_a_launch_waits_for_the_stream_that_is_current_then(
    driver: fake_cuda.FakeDriver, gpu: OnGpu
) -> None:
    linear = nn.Linear(3, 3)
    with fastinit.fused(root=linear):
        init.normal_(linear.weight)
        gpu.place = Place(0, 8)
        assert not driver.launches
    assert [launch.stream for launch in driver.launches] == [0]
    assert gpu.order == [
        "(0, 0) waits for (0, 8)",
        "launch on (0, 0)",
        "(0, 8) waits for (0, 0)",
    ]


def test_a_fill_outside_a_plan_needs_no_upload(driver: fake_cuda.FakeDriver, gpu: OnGpu) -> None:
    gpu.place = Place(1, 8)
    tensor = torch.zeros(10_000)
    gpu.put(tensor, 1)
    init.trunc_normal_(tensor, std=0.02)
    [launch] = driver.launches
    assert (launch.device, launch.stream, launch.is_inline) == (1, 8, 1)
    assert 0.015 < tensor.std() < 0.025
    assert not gpu.uploads


def test_storages_over_the_same_memory(driver: fake_cuda.FakeDriver, gpu: OnGpu) -> None:
    class Twice(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            memory = torch.zeros(10).numpy()
            self.one = nn.Parameter(torch.from_numpy(memory))
            self.two = nn.Parameter(torch.from_numpy(memory))

        def init_weights(self) -> None:
            init.ones_(self.one)
            init.constant_(self.two, 2.0)

    model = Twice()
    model.init_weights()
    assert model.one.tolist() == [2.0] * 10


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"words"}))
def test_a_failed_launch_is_an_error(driver: fake_cuda.FakeDriver, gpu: OnGpu, kind: str) -> None:
    arguments = {"constant": (3.0,)}.get(kind, ())
    driver.fail("cuLaunchKernel", 2)
    tensor = torch.zeros(20)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_OUT_OF_MEMORY: out of memory"):
        getattr(init, f"{kind}_")(tensor, *arguments)
    assert not tensor.any()


# --- which GPUs are served ------------------------------------------------------------------------


def test_a_device_is_loaded_once_and_its_reason_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def refuse(device: int, image: bytes | None = None) -> None:
        loads.append((device, image))
        raise _C.NoKernelError("CUDA_ERROR_NO_BINARY_FOR_GPU")

    monkeypatch.setattr(cuda, "_reasons", {})
    monkeypatch.setattr(_C, "cuda_load", refuse)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda.nvrtc, "compiled", lambda source, capability: b"cubin")
    with pytest.warns(RuntimeWarning, match=r"cuda:3 are filled by torch.nn.init, with other val"):
        assert not cuda.is_ready(3)
    assert not cuda.is_ready(3)
    assert loads == [(3, None), (3, b"cubin")]
    assert cuda.why_unavailable(3).startswith("CUDA_ERROR_NO_BINARY_FOR_GPU; ")


def test_the_image_of_the_build_first_then_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    images = []

    def load(device: int, image: bytes | None = None) -> None:
        images.append(image)
        if image is None:
            raise _C.NoKernelError("built without nvcc")

    monkeypatch.setattr(cuda, "_reasons", {})
    monkeypatch.setattr(_C, "cuda_load", load)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(
        cuda.nvrtc, "compiled", lambda source, capability: repr(capability).encode()
    )
    assert cuda.is_ready(0)
    assert images == [None, b"(8, 9)"]


def test_other_errors_are_not_taken_for_a_missing_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: int, image: bytes | None = None) -> None:
        raise _C.CudaError("CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(cuda, "_reasons", {})
    monkeypatch.setattr(_C, "cuda_load", fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            cuda.is_ready(0)


def test_other_vendors_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_reasons", {})
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert cuda.why_unavailable(0) == "the kernels are for NVIDIA's GPUs"


def test_show_config_says_what_each_gpu_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(cuda, "_reasons", {0: "", 1: "no kernel image"})
    assert cuda.config().endswith("cuda:0 native; cuda:1 no kernel image; cuda:2 not used yet")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cuda.config().endswith("; no device")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda.config().endswith("this torch has no CUDA")


def test_tensors_of_a_gpu_are_served_where_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        """What `serves` asks of a plain tensor on cuda:1."""

        dtype, layout, is_cpu, is_cuda = torch.float32, torch.strided, False, True
        is_meta = False

        def get_device(self) -> int:
            return 1

        def data_ptr(self) -> int:
            return 64

        def element_size(self) -> int:
            return 4

        def is_neg(self) -> bool:
            return False

        is_inference = is_neg

        def is_contiguous(self) -> bool:
            return True

    monkeypatch.setattr(supported, "_is_plain", lambda kind: True)
    monkeypatch.setattr(supported, "_is_wrapped", lambda tensor: False)
    for reason, served in (("", True), ("no kernel image", False)):
        monkeypatch.setattr(cuda, "_reasons", {1: reason})
        assert supported.is_supported(Tensor()) is served  # type: ignore[arg-type]
