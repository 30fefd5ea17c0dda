"""Where mmengine's precedence surprises, fastinit does the same and says so."""

import warnings

import pytest
import torch
from torch import nn

from fastinit import fused
from fastinit.init_cfg.module import BaseModule, Sequential


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "ones.pth"
    torch.save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, path)
    return str(path)


class Loaded(BaseModule):
    def __init__(self, path):
        super().__init__({"type": "Pretrained", "checkpoint": path})
        self.weight, self.bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))


def test_pretrained_inside_an_override_is_overwritten(checkpoint):
    rule = {
        "type": "Constant",
        "val": 3.0,
        "layer": "Linear",
        "override": {"type": "Pretrained", "name": "fc", "checkpoint": checkpoint},
    }
    later = {"type": "Constant", "val": 5.0, "layer": "Linear"}

    class Net(BaseModule):
        def __init__(self):
            super().__init__([rule, later])
            self.fc = nn.Linear(2, 2)

    model = Net()
    with pytest.warns(
        UserWarning, match=r"pretrained fc\.weight .* was overwritten \(ConstantInit"
    ):
        model.init_weights()
    assert (model.fc.weight == 5.0).all()


def test_code_after_super_overwrites_a_childs_pretrained(checkpoint):
    class Middle(BaseModule):
        def __init__(self):
            super().__init__()
            self.loaded = Loaded(checkpoint)

        def init_weights(self):
            super().init_weights()
            nn.init.constant_(self.loaded.weight, 7.0)

    model = Sequential(Middle())
    with pytest.warns(UserWarning, match=r"pretrained 0\.loaded\.weight .* was overwritten"):
        model.init_weights()
    assert (model[0].loaded.weight == 7.0).all()
    assert (model[0].loaded.bias == 1.0).all()


def test_a_base_module_inside_a_plain_sequential_is_not_reached():
    inner = Sequential(
        nn.Linear(2, 2), init_cfg={"type": "Constant", "val": 3.0, "layer": "Linear"}
    )
    model = Sequential(nn.Sequential(inner))
    before = inner[0].weight.clone()
    with pytest.warns(UserWarning, match=r"the init_cfg of 0\.0 was not applied"):
        model.init_weights()
    assert torch.equal(inner[0].weight, before)


def test_a_model_without_surprises_says_nothing(checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Sequential(Loaded(checkpoint), Sequential(nn.Linear(2, 2))).init_weights()


def test_the_roots_own_code_is_in_the_plan(fill_sizes):
    class Root(BaseModule):
        def __init__(self, fail=False):
            super().__init__({"type": "Normal", "layer": "Linear"})
            self.fc, self.fail = nn.Linear(2, 2), fail

        def init_weights(self):
            super().init_weights()
            nn.init.constant_(self.fc.weight, 7.0)
            if self.fail:
                raise LookupError

    model = Root()
    model.init_weights()
    assert fill_sizes == [2]
    assert (model.fc.weight == 7.0).all()

    model = Root(fail=True)
    before = model.fc.weight.clone()
    with pytest.raises(LookupError):
        model.init_weights()
    assert torch.equal(model.fc.weight, before)
    assert not model.is_init


def with_rule(rule):
    class Net(BaseModule):
        def __init__(self):
            super().__init__(rule)
            self.conv, self.act = nn.Conv2d(2, 2, 1), nn.ReLU()

    return Net()


def test_a_layer_that_is_no_class_is_told_of():
    rule = {"type": "Normal", "layer": ["Conv2D", "_BatchNorm"]}
    with pytest.warns(UserWarning, match=r"no class of modules is called 'Conv2D'.*'Conv2d'\?"):
        with_rule(rule).init_weights()


def test_a_layer_that_the_model_does_not_have_is_only_in_the_account():
    rule = {"type": "Normal", "layer": "GroupNorm"}
    with warnings.catch_warnings(), fused() as plan:
        warnings.simplefilter("error")
        with_rule(rule).init_weights()
    [unmatched] = plan.manifest().unmatched
    assert unmatched.startswith("NormalInit")
    assert unmatched.endswith("of Net, layer=['GroupNorm']")
    assert "GroupNorm" not in {tensor.name for tensor in plan.manifest().tensors}


def test_an_override_of_a_child_without_parameters_is_told_of():
    rule = {"type": "Normal", "layer": "Conv2d", "override": {"name": "act", "type": "Normal"}}
    with fused() as plan, pytest.warns(UserWarning, match=r"'act' of Net has no parameters"):
        with_rule(rule).init_weights()
    assert len(plan.manifest().unmatched) == 1
