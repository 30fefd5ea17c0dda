"""fastinit.init against torch.nn.init: signatures, errors, warnings, laws, layouts, fallbacks."""

import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import fastinit
from fastinit import init

SHAPE = (600, 720)  # fan_out 600, fan_in 720


def centred_uniform(std: float):
    return stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std)


RANDOM = {  # arguments and the law they mean
    "uniform_": ((-0.3, 0.5), stats.uniform(-0.3, 0.8)),
    "normal_": ((0.1, 0.7), stats.norm(0.1, 0.7)),
    "trunc_normal_": ((0.1, 0.5, -0.6, 1.4), stats.truncnorm(-1.4, 2.6, 0.1, 0.5)),
    "xavier_uniform_": ((2.0,), centred_uniform(2 * math.sqrt(2 / (600 + 720)))),
    "xavier_normal_": ((2.0,), stats.norm(0, 2 * math.sqrt(2 / (600 + 720)))),
    "kaiming_uniform_": (
        (0.2, "fan_out", "leaky_relu"),
        centred_uniform(math.sqrt(2 / (1 + 0.2**2) / 600)),
    ),
    "kaiming_normal_": ((0.0, "fan_in", "relu"), stats.norm(0, math.sqrt(2 / 720))),
}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_public_name_is_here_with_torchs_signature():
    for name in init.__all__:
        expected = inspect.signature(getattr(nn.init, name)).parameters
        actual = inspect.signature(getattr(init, name)).parameters
        assert list(actual) == list(expected), name
        assert [p.default for p in actual.values()] == [p.default for p in expected.values()], name


@pytest.mark.parametrize("name", [name for name in dir(nn.init) if hasattr(nn.init, f"{name}_")])
def test_deprecated_names_warn_as_torchs(name):
    shape = (4, 4, 1) if name == "dirac" else (4, 4)
    args = {"constant": (1.0,), "sparse": (0.1,)}.get(name, ())
    filled = torch.zeros(shape)
    torch.manual_seed(0)
    with pytest.warns(FutureWarning, match=f"nn.init.{name}_") as caught:
        assert getattr(init, name)(filled, *args) is filled
    assert caught[0].filename == __file__
    with pytest.warns(FutureWarning) as theirs:
        getattr(nn.init, name)(torch.zeros(shape), *args)
    assert str(caught[0].message) == str(theirs[0].message)
    torch.manual_seed(0)
    assert torch.equal(filled, getattr(init, f"{name}_")(torch.zeros(shape), *args))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RANDOM)
def test_law(name, dtype):
    args, law = RANDOM[name]
    x = torch.empty(SHAPE, dtype=dtype)
    assert getattr(init, name)(x, *args, generator=generator()) is x
    values = x.double().flatten().numpy()
    assert abs(values.mean() - law.mean()) < 5 * law.std() / math.sqrt(values.size) + 1e-5
    assert abs(values.std() / law.std() - 1) < 0.01
    if dtype in (torch.float32, torch.float64):  # rounding to 16 bits makes steps that KS would see
        assert stats.kstest(values, law.cdf).pvalue > 1e-4
    low, high = law.support()
    assert values.min() >= torch.tensor(low, dtype=dtype).double().item()
    assert values.max() <= torch.tensor(high, dtype=dtype).double().item()


@pytest.mark.parametrize("name", RANDOM)
def test_parameters_are_torchs(name):
    """The same call on torch gives the same standard deviation and range."""
    args, _ = RANDOM[name]
    ours = getattr(init, name)(torch.empty(SHAPE), *args, generator=generator())
    theirs = getattr(nn.init, name)(torch.empty(SHAPE), *args, generator=generator())
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.01)
    assert ours.max().item() == pytest.approx(theirs.max().item(), rel=0.15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 1, -2.5, 1e-3, True, 65504.0, 1 / 3])
def test_constants_equal_torchs(dtype, value):
    ours, theirs = torch.empty(33, dtype=dtype), torch.empty(33, dtype=dtype)
    assert torch.equal(init.constant_(ours, value), nn.init.constant_(theirs, value))
    assert torch.equal(init.ones_(ours), torch.ones(33, dtype=dtype))
    assert torch.equal(init.zeros_(ours), torch.zeros(33, dtype=dtype))


BAD = [
    ("uniform_", (4,), (1.0, 0.0)),
    ("uniform_", (4,), (float("nan"), 1.0)),
    ("uniform_", (4,), (-3e38, 3e38)),
    ("uniform_", (4,), ("a", 1.0)),
    ("normal_", (4,), (0.0, -1.0)),
    ("normal_", (4,), (0.0, "x")),
    ("trunc_normal_", (4,), (0.0, 0.0)),
    ("trunc_normal_", (4,), (0.0, 1.0, 2.0, -2.0)),
    ("constant_", (4,), ("one",)),
    ("xavier_uniform_", (4,), ()),
    ("xavier_normal_", (), ()),
    ("xavier_normal_", (0, 0), ()),
    ("kaiming_uniform_", (4,), ()),
    ("kaiming_normal_", (4, 4), (0.0, "fan_both")),
    ("kaiming_normal_", (4, 4), (0.0, "fan_in", "gelu")),
    ("kaiming_normal_", (4, 4), ("slope",)),
    ("orthogonal_", (4,), ()),
    ("sparse_", (4,), (0.5,)),
    ("eye_", (4,), ()),
    ("dirac_", (4, 4), ()),
]


@pytest.mark.parametrize(("name", "shape", "args"), BAD)
def test_errors_are_torchs(name, shape, args):
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - whatever torch raises
        getattr(nn.init, name)(torch.zeros(shape), *args)
    x = torch.zeros(shape)
    with pytest.raises(theirs.type):
        getattr(init, name)(x, *args)
    assert torch.equal(x, torch.zeros(shape))


@pytest.mark.parametrize(
    "target", [None, nn.Linear(2, 2), np.zeros((2, 2))], ids=["None", "module", "array"]
)
@pytest.mark.parametrize("name", [name for name in init.__all__ if name.endswith("_")])
def test_what_is_no_tensor_raises_as_in_torch(name, target):
    args = {"constant_": (1.0,), "sparse_": (0.1,)}.get(name, ())
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - whatever torch raises
        getattr(nn.init, name)(target, *args)
    with pytest.raises(theirs.type):
        getattr(init, name)(target, *args)
    with fastinit.fused(seed=0), pytest.raises(theirs.type):
        getattr(nn.init, name)(target, *args)


def test_half_overflow_is_torchs_error():
    with pytest.raises(RuntimeError, match="overflow"):
        init.constant_(torch.empty(3, dtype=torch.float16), 1e6)


@pytest.mark.parametrize(
    ("name", "shape", "args"),
    [
        ("kaiming_uniform_", (0, 4), ()),
        ("kaiming_normal_", (4, 0), ()),
        ("trunc_normal_", (8,), (0.0, 1.0, 3.0, 4.0)),
    ],
)
def test_warnings_are_torchs(name, shape, args):
    def caught(module):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            getattr(module, name)(torch.empty(shape), *args)
        return [(w.category, str(w.message)) for w in found]

    assert caught(init) == caught(nn.init) != []


def layouts():
    base = torch.empty(6, 5, 4, 3)
    yield "contiguous", base
    yield "channels_last", torch.empty_like(base, memory_format=torch.channels_last)
    yield "transposed", torch.empty(3, 5, 4, 6).transpose(0, 3)
    yield "permuted", torch.empty(4, 3, 6, 5).permute(2, 3, 0, 1)
    yield "strided", torch.empty(12, 5, 4, 9)[::2, :, :, ::3]
    yield "offset", torch.empty(6 * 5 * 4 * 3 + 1)[1:].view(6, 5, 4, 3)


@pytest.mark.parametrize("name", RANDOM)
def test_values_do_not_depend_on_memory_format(name):
    args, _ = RANDOM[name]
    results = {k: getattr(init, name)(x, *args, generator=generator()) for k, x in layouts()}
    for layout, x in results.items():
        assert torch.equal(x, results["contiguous"]), layout


def test_strided_fill_leaves_the_gaps_alone():
    whole = torch.full((12, 9), 5.0)
    init.normal_(whole[::2, ::3], 100.0, 1.0)
    assert (whole[::2, ::3] > 50).all()
    whole[::2, ::3] = 5.0
    assert (whole == 5.0).all()


@pytest.mark.parametrize("name", RANDOM)
def test_generator_governs(name):
    args, _ = RANDOM[name]
    fill = getattr(init, name)
    g = generator()
    first, second = (fill(torch.empty(40, 30), *args, generator=g) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, fill(torch.empty(40, 30), *args, generator=generator()))
    torch.manual_seed(3)
    third = fill(torch.empty(40, 30), *args)
    fourth = fill(torch.empty(40, 30), *args)
    torch.manual_seed(3)
    assert torch.equal(third, fill(torch.empty(40, 30), *args))
    assert not torch.equal(third, fourth)
    state = torch.get_rng_state()
    fill(torch.empty(40, 30), *args, generator=generator())
    assert torch.equal(state, torch.get_rng_state())


def test_a_constant_draws_nothing():
    state = torch.get_rng_state()
    init.constant_(torch.empty(5), 2.0)
    assert torch.equal(state, torch.get_rng_state())


def test_scalars_and_empty_tensors():
    assert init.normal_(torch.empty(()), 3.0, 0.0).item() == 3.0
    assert init.uniform_(torch.empty(0, 3)).shape == (0, 3)
    assert init.constant_(torch.empty(()), 2.5).item() == 2.5


def test_meta_tensors_stay_meta():
    for name, (args, _) in RANDOM.items():
        assert getattr(init, name)(torch.empty(4, 4, device="meta"), *args).is_meta


def test_leaves_that_require_grad():
    weight = nn.Parameter(torch.zeros(4, 4))
    version = weight._version
    init.normal_(weight)
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight.std() > 0
    assert weight._version > version


def test_a_write_invalidates_saved_tensors():
    weight = nn.Parameter(torch.ones(4))
    loss = (weight * weight).sum()
    init.normal_(weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.int64, torch.bool])
def test_other_dtypes_are_torchs(dtype):
    ours, theirs = torch.empty(9, dtype=dtype), torch.empty(9, dtype=dtype)
    assert torch.equal(init.ones_(ours), nn.init.ones_(theirs))
    if dtype is torch.complex64:
        torch.manual_seed(0)
        init.normal_(ours)
        torch.manual_seed(0)
        assert torch.equal(ours, nn.init.normal_(theirs))


def test_overlapping_memory_is_torchs_error():
    with pytest.raises(RuntimeError, match="single memory location"):
        init.normal_(torch.empty(1, 4).expand(3, 4))


def test_far_truncation_is_torchs_and_inside():
    x = init.trunc_normal_(torch.empty(50), 0.0, 1.0, 12.0, 12.5)
    assert (x >= 12).all()
    assert (x <= 12.5).all()


@pytest.mark.parametrize("name", RANDOM)
def test_torch_backend_is_torch(name):
    args, _ = RANDOM[name]
    with fastinit.backend("torch"):
        torch.manual_seed(5)
        ours = getattr(init, name)(torch.empty(40, 30), *args)
    torch.manual_seed(5)
    assert torch.equal(ours, getattr(nn.init, name)(torch.empty(40, 30), *args))


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("sparse_", (0.3,), (12, 8)),
        ("eye_", (), (12, 8)),
        ("dirac_", (2,), (4, 2, 3)),
    ],
)
def test_passed_on(name, args, shape):
    torch.manual_seed(5)
    ours = getattr(init, name)(torch.empty(shape), *args)
    torch.manual_seed(5)
    assert torch.equal(ours, getattr(nn.init, name)(torch.empty(shape), *args))


def test_gains_are_torchs():
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == nn.init.calculate_gain("leaky_relu", 0.3)


def test_numpy_scalars_are_numbers():
    g = generator()
    ours = init.normal_(torch.empty(9), np.float32(0.5), np.sqrt(np.float64(2.0)), generator=g)
    assert torch.equal(
        ours, init.normal_(torch.empty(9), 0.5, math.sqrt(2.0), generator=generator())
    )


def test_lazy_parameters_are_torchs_error():
    weight = nn.LazyLinear(3).weight
    for name in ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"):
        with pytest.raises(ValueError, match="uninitialized parameter"):
            getattr(init, name)(weight)


def test_inference_tensors_are_torchs_error():
    with torch.inference_mode():
        x = init.normal_(torch.zeros(3))
    with pytest.raises(RuntimeError, match="inference"):
        init.normal_(x)


def test_vmap_is_torchs():
    fill = torch.func.vmap(lambda x: init.normal_(x * 1), randomness="different")
    assert fill(torch.ones(2, 3)).std() > 0


def test_private_helpers_are_torchs():
    assert init._calculate_fan_in_and_fan_out(torch.empty(3, 4)) == (4, 3)
    with pytest.raises(AttributeError):
        init.no_such_initializer_  # noqa: B018
