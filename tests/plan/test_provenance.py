"""Initialization: what counts as a write, and whose it is."""

import pytest
import torch
from torch import nn

import fastinit
from fastinit import init
from fastinit.capture.opened import initializing, opened
from fastinit.plan.current import initialization_of
from fastinit.plan.provenance import Initialization
from fastinit.tensors.walk import walk


@pytest.fixture(params=["native", "torch"])
def running(request):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    with fastinit.backend(request.param), initializing(model, walk(model)) as initialization:
        yield model, initialization


def credited(running):
    """Names of the parameters that a text given now goes to."""
    model, initialization = running
    initialization.update(model, "now")
    return [name for name, _, info in initialization.report() if info == "now"]


WRITES = {
    "fastinit.init": lambda x: init.normal_(x),
    "torch.nn.init": lambda x: nn.init.uniform_(x),
    "through a helper": lambda x: nn.init.xavier_normal_(x),
    "trunc_normal_": lambda x: nn.init.trunc_normal_(x),
    "the value it had": lambda x: init.constant_(x, 0.5),
    "a method": lambda x: x.data.fill_(1.0),
    "a view": lambda x: x.data[0].zero_(),
    "arithmetic": lambda x: x.data.mul_(2),
    "an operator": lambda x: x.data.__imul__(2),
    "an item": lambda x: x.data.__setitem__(0, 3.0),
    "copy_": lambda x: x.data.copy_(torch.ones(2, 2)),
    "out=": lambda x: torch.add(x.data, 1, out=x.data),
    "numpy": lambda x: x.data.numpy().__setitem__(0, 9.0),
    "new memory": lambda x: setattr(x, "data", torch.ones(2, 2)),
    "after new memory": lambda x: setattr(x, "data", torch.ones(2, 2)) or x.data.zero_(),
}
READS = {
    "a sum": lambda x: x.sum().item(),
    "a clone": lambda x: x.detach().clone().mul_(2),
    "numpy": lambda x: x.data.numpy().sum(),
    "a view": lambda x: x.data[0],
    "a twin": lambda x: nn.init.normal_(torch.empty_like(x)),
    "requires_grad_": lambda x: x.requires_grad_(True),
}


@pytest.mark.parametrize("how", WRITES)
def test_a_write_is_credited_once(running, how):
    model, _ = running
    WRITES[how](model[1].weight)
    assert credited(running) == ["1.weight"]
    model_, initialization = running
    initialization.update(model_, "later")
    assert all(info != "later" for _, _, info in initialization.report())


@pytest.mark.parametrize("how", READS)
def test_a_read_is_not_a_write(running, how):
    model, _ = running
    READS[how](model[1].weight)
    assert credited(running) == []


def test_a_sparse_parameter_is_never_credited(running):
    """Of what else is written unseen, a look at it must not come to it."""
    linear = nn.Linear(2, 2)
    linear.mask = nn.Parameter(torch.eye(2).to_sparse(), requires_grad=False)
    with initializing(linear, walk(linear)) as inner:
        inner.update(linear, "before")
        array = linear.weight.data.numpy()
        array[0] = 9
        linear.mask.data.zero_()
        inner.update(linear, "now")
    told = {name: info for name, _, info in inner.report()}
    assert told.pop("mask").startswith("The value is the same before and after")
    assert told == {"weight": "now", "bias": "before"}


def test_credit_goes_to_the_module_that_is_asked_about(running):
    model, initialization = running
    init.normal_(model[0].weight)
    init.normal_(model[1].weight)
    initialization.update(model[1], "one")
    initialization.update(model, "all")
    texts = {name: info for name, _, info in initialization.report()}
    assert texts["1.weight"] == "one"
    assert texts["0.weight"] == "all"
    assert texts["0.bias"] == (
        "The value is the same before and after calling `init_weights` of Sequential "
    )


def test_a_new_parameter_is_an_error(running):
    model, initialization = running
    model[0].register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(AssertionError, match=r"`0\.extra` of `Sequential` was added"):
        initialization.update(model, "text")
    assert ("0.extra", torch.Size([1]), "Added during `init_weights`") in initialization.report()


def test_covers_what_was_there(running):
    model, initialization = running
    assert initialization.covers(model[0])
    assert initialization_of(model[0]) is initialization
    assert not initialization.covers(nn.Linear(1, 1))
    assert initialization_of(nn.Linear(1, 1)) is None


def test_it_leaves_the_plan_alone():
    """Looking at parameters must not execute what is pending for them."""
    model = nn.Linear(2, 2)
    with opened(model) as p:
        init.normal_(model.weight)
        initialization = Initialization(model, walk(model), p.scope.writes)
        initialization.update(model, "text")
        initialization.report()
        assert len(p.pending.storages()) == 1
