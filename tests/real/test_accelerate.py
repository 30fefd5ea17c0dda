"""accelerate: each route gives the values of `build` alone, or is refused by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import distributed
import pytest
import torch
from modules import copied, llama, same
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from wrapped import Computed, Model, expected, values

import fastinit
from fastinit import build, fused, materialize


@pytest.fixture
def accelerator(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An Accelerator on the CPU, whose state is that of the process."""
    yield accelerate.Accelerator(cpu=True, mixed_precision=getattr(request, "param", "no"))
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.mark.parametrize("accelerator", ["no", "bf16"], indirect=True)
def test_prepare_leaves_the_values(accelerator: Any) -> None:
    model = build(Model, seed=3)
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    assert same(expected(), values(accelerator.unwrap_model(model)))


class TestEmptyWeights:
    @pytest.mark.parametrize("include_buffers", [False, True])
    def test_materialize_replays(self, include_buffers: bool) -> None:
        with accelerate.init_empty_weights(include_buffers=include_buffers):
            model = Model()
        assert same(expected(), values(materialize(model, seed=3)))

    @pytest.mark.parametrize("is_inside", [False, True])
    def test_to_empty_and_fused(self, is_inside: bool) -> None:
        with accelerate.init_empty_weights():
            model = Model()
        if not is_inside:
            model.to_empty(device="cpu")
        with fused(seed=3, root=model):
            if is_inside:
                model.to_empty(device="cpu")
            model.init_weights()
        assert same(expected(), values(model))

    def test_fused_tells_that_nothing_has_memory(self) -> None:
        with accelerate.init_empty_weights():
            model = Model()
        with (
            pytest.warns(fastinit.NotInitializedWarning, match=r"layers\.0\.weight first"),
            fused(seed=3, root=model),
        ):
            model.init_weights()

    def test_what_only_a_constructor_knows_is_refused(self) -> None:
        with accelerate.init_empty_weights():
            model = Computed()
        with pytest.raises(ValueError, match=r"nothing writes token \(4,\).*build\(fn, device="):
            materialize(model, seed=3)

    def test_a_random_buffer_is_not_the_seeds(self) -> None:
        def make() -> nn.Module:
            model = Model()
            model.register_buffer("noise", torch.randn(4))
            return model

        with accelerate.init_empty_weights():
            model = make()
        before = model.get_buffer("noise").clone()
        assert torch.equal(materialize(model, seed=3).get_buffer("noise"), before)
        with accelerate.init_empty_weights(include_buffers=True):
            model = make()
        with pytest.raises(ValueError, match=r"nothing writes noise \(4,\)"):
            materialize(model, seed=3)

    @pytest.mark.parametrize("device", [None, "cpu", "meta"])
    @pytest.mark.parametrize("is_inside", [False, True])
    def test_build_is_refused(self, device: str | None, is_inside: bool) -> None:
        def empty() -> nn.Module:
            with accelerate.init_empty_weights():
                return Model()

        def built() -> nn.Module:
            with accelerate.init_empty_weights():
                return build(Model, device=device, seed=3)

        text = r"layers\.0\.weight, .* are on the meta device.*fastinit\.materialize"
        with pytest.raises(ValueError, match=text):
            build(empty, device=device, seed=3) if is_inside else built()

    def test_init_on_device_changes_nothing(self) -> None:
        with accelerate.init_on_device(torch.device("cpu")):
            model = build(Model, seed=3)
        assert same(expected(), values(model))


class TestDispatch:
    def test_a_checkpoint_fills_a_model_on_meta(self, tmp_path: Path) -> None:
        torch.save(expected(), tmp_path / "pytorch_model.bin")
        model = build(Model, device="meta", seed=4)
        accelerate.load_checkpoint_and_dispatch(model, tmp_path, device_map={"": "cpu"})
        assert same(expected(), values(model))
        with pytest.raises(ValueError, match="it is complete, and there is nothing to do"):
            materialize(model)

    @pytest.mark.parametrize("is_empty", [False, True])
    def test_materialize_fills_what_a_checkpoint_lacks(
        self, is_empty: bool, tmp_path: Path
    ) -> None:
        stored = {n: t + 1 for n, t in expected().items() if n.startswith("layers.0")}
        torch.save(stored, tmp_path / "pytorch_model.bin")
        if is_empty:
            with accelerate.init_empty_weights():
                model = Model()
        else:
            model = build(Model, device="meta", seed=3)
        accelerate.load_checkpoint_in_model(model, tmp_path, device_map={"": "cpu"})
        assert same(expected() | stored, values(materialize(model, seed=3)))

    def test_hooks_change_nothing(self) -> None:
        model = build(Model, seed=3)
        accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
        assert same(expected(), values(model))
        with fused(seed=3, root=model):
            model.init_weights()
        assert same(expected(), values(model))

    @pytest.mark.parametrize(
        "act",
        [
            pytest.param(lambda model: materialize(model, seed=5), id="materialize"),
            pytest.param(lambda model: fused(seed=5, root=model).__enter__(), id="fused"),
            pytest.param(lambda model: build(lambda: model, seed=5), id="build"),
        ],
    )
    def test_an_offloaded_model_is_refused(self, act: Callable[[Any], object]) -> None:
        model = build(Model, seed=3)
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        with pytest.raises(ValueError, match=r"^layers\.0 is offloaded by accelerate"):
            act(model)
        accelerate.hooks.remove_hook_from_submodules(model)
        assert same(expected(), values(model))

    def test_an_offloaded_part_is_refused(self, tmp_path: Path) -> None:
        model = fastinit.Sequential(
            nn.Linear(3, 3), nn.Linear(3, 3), init_cfg=dict(type="Normal", layer="Linear")
        )
        parts = {"0": "cpu", "1": "disk"}
        accelerate.dispatch_model(model, parts, main_device="cpu", offload_dir=tmp_path)
        with pytest.raises(ValueError, match=r"^1 is offloaded by accelerate"):
            model.init_weights()


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_from_pretrained_has_its_files_values_and_the_seeds_head(
    device_map: Any, tmp_path: Path
) -> None:
    import transformers  # here, because it takes seconds, on each rank too

    stored: Any = llama(hidden_size=32, intermediate_size=32, num_hidden_layers=1)
    stored.save_pretrained(tmp_path)
    kind: Any = transformers.LlamaForSequenceClassification
    head = copied(build(lambda: kind(stored.config), seed=3))["score.weight"]
    model = build(lambda: kind.from_pretrained(tmp_path, device_map=device_map), seed=3)
    found = copied(model)
    assert torch.equal(found.pop("score.weight"), head)
    assert same(found, stored.state_dict())


def prepared(rank: int) -> list[str]:
    """Names of routes by which this rank does not hold what `build` alone gives."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    warnings.simplefilter("ignore")
    wanted = expected()
    found = []
    for route in ROUTES:
        accelerate.state.AcceleratorState._reset_state(True)
        if not same(wanted, route()):
            found.append(route.__name__)
    accelerate.state.AcceleratorState._reset_state(True)
    torch.manual_seed(rank)
    unseeded = ddp(None)
    own = unseeded["layers.0.weight"].clone()
    torch.distributed.broadcast(own, 0)
    if not torch.equal(own, unseeded["layers.0.weight"]):
        found.append("rank 0's values on every rank, without a seed")
    return found


def of_kind(model: Any, kind: type) -> dict[str, Tensor]:
    assert isinstance(model, kind)
    return values(getattr(model, "module", model))


def ddp(seed: int | None = 3) -> dict[str, Tensor]:
    model = accelerate.Accelerator(cpu=True).prepare(build(Model, seed=seed))
    return of_kind(model, nn.parallel.DistributedDataParallel)


def ddp_in_a_plan() -> dict[str, Tensor]:
    accelerator = accelerate.Accelerator(cpu=True)
    with fused(seed=3):
        model = accelerator.prepare(build(Model))
    return of_kind(model, nn.parallel.DistributedDataParallel)


def ddp_filled_again() -> dict[str, Tensor]:
    model = accelerate.Accelerator(cpu=True).prepare(Model())
    with fused(seed=3, root=model):
        model.module.init_weights()
    return of_kind(model, nn.parallel.DistributedDataParallel)


def fsdp2(model: nn.Module, loads_from_rank_0: bool = False) -> tuple[Any, bool]:
    """The model as accelerate prepares it for FSDP2, and whether the optimizer holds all of it.

    On CPUs accelerate would choose DDP, so its state is told that this is FSDP's run.
    """
    plugin = accelerate.FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="size_based_wrap",
        min_num_params=50,
        cpu_ram_efficient_loading=loads_from_rank_0,
    )
    accelerator = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    accelerator.state.distributed_type = accelerate.DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    assert isinstance(model, FSDPModule)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return model, held == {id(p) for p in model.parameters()}


def trained(model: nn.Module, **options: Any) -> Any:
    model, is_held = fsdp2(model, **options)
    assert is_held
    return model


def fsdp2_built() -> dict[str, Tensor]:
    return values(trained(build(Model, seed=3)))


def fsdp2_built_on_rank_0() -> dict[str, Tensor]:
    seed = 3 if torch.distributed.get_rank() == 0 else 4
    return values(trained(build(Model, seed=seed), loads_from_rank_0=True))


def fsdp2_sharded_before() -> dict[str, Tensor]:
    model = build(Model, device="meta", seed=3)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return values(trained(materialize(fully_shard(model, mesh=mesh))))


def fsdp2_filled_again() -> dict[str, Tensor]:
    model = trained(Model())
    with fused(seed=3, root=model), torch.no_grad():
        model.init_weights()
    return values(model)


def fsdp2_on_meta() -> dict[str, Tensor]:
    model, is_held = fsdp2(build(Model, device="meta", seed=3))
    # It matches them by address, and on meta all are 0; docs/distributed.md warns of it.
    assert not is_held, "accelerate's optimizers may hold a model from meta now"
    return values(materialize(model))


ROUTES = (
    ddp,
    ddp_in_a_plan,
    ddp_filled_again,
    fsdp2_built,
    fsdp2_built_on_rank_0,
    fsdp2_sharded_before,
    fsdp2_filled_again,
    fsdp2_on_meta,
)


def test_every_rank_holds_what_one_process_has() -> None:
    assert distributed.run(2, prepared) == [[], []]
