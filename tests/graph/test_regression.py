"""A network that restores at once: on images of any size, and learning it from YAML."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command_helpers import restore as run_test
from pydantic import ValidationError
from torch import Tensor
from trainer_helpers import DIFFUSION, NETWORK, fill, make_trainer, recipe_data, write_recipe

from codes.config.options import issues_of, validate_nested
from codes.graph.graph import StepContext
from codes.graph.injectors.regression import RegressionInjector, RegressionOptions
from codes.images.files import read_image
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, save_checkpoint
from codes.models.diffusion.networks.unet import UNetModel
from codes.models.diffusion.process_options import ProcessOptions
from codes.utils.errors import ConfigError
from codes.utils.rng import torch_globals_at

PLAIN = {**NETWORK, "out_channels": 3, "residual_from_low_res": True, "residual_scale": 0.12}
KEYS = DIFFUSION["model_input_keys"]


def network(seed: int = 3, **changes: Any) -> UNetModel:
    args = {key: tuple(v) if isinstance(v, list) else v for key, v in {**PLAIN, **changes}.items()}
    with torch_globals_at("cpu", seed, "network"):
        net = UNetModel(UNetModel.Options.model_validate(args))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def regression(**changes: Any) -> RegressionInjector:
    data = {
        "type": "regression", "generator": "g", "model_input_keys": KEYS, "output_scale_factor": 2, "out": "restored",
    }  # fmt: skip
    return RegressionInjector(validate_nested(RegressionOptions, {**data, **changes}))


def context(net: UNetModel, **more: Any) -> StepContext:
    return StepContext({"g": net}, torch.device("cpu"), 5, range(2), nullcontext, **more)


def state(height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lq = torch.rand(2, 3, height, width, generator=generator) * 1.6 - 0.8
    return {"lq": lq, "corruption_entropy": torch.rand(2, 2, generator=generator)}


@torch.no_grad()
def direct(net: UNetModel, given: dict[str, Tensor], timestep: int = 0) -> Tensor:
    """What the injector `generator` computes in training."""
    lq = given["lq"]
    up = F.interpolate(lq, scale_factor=2, mode=net.low_res_upsampling, align_corners=False)
    t = torch.full((len(lq),), timestep)
    return net(up, t, low_res=lq, corruption_factor=given["corruption_entropy"]).clamp(-1, 1)


@pytest.mark.parametrize("timestep", [0, 3])
def test_an_image_of_one_tile_is_the_networks_own_answer(timestep: int) -> None:
    net, given = network(), state(12, 16)
    restored = regression(tile=0, timestep=timestep)(given, context(net))["restored"]
    torch.testing.assert_close(restored, direct(net, given, timestep), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(restored, direct(net, given, timestep + 1), atol=1e-5)


def test_images_of_any_size_are_restored_in_tiles() -> None:
    net, given = network(), state(19, 37)
    tiled = regression(tile=32, tile_overlap=16, tile_batch_size=3)(given, context(net))["restored"]
    assert tiled.shape == (2, 3, 38, 74)
    others = regression(tile=32, tile_overlap=16, tile_batch_size=1)(given, context(net))["restored"]
    torch.testing.assert_close(tiled, others, rtol=1e-4, atol=1e-5)
    upsampled = F.interpolate(given["lq"], scale_factor=2, mode="bilinear", align_corners=False)
    assert 0.001 < float((tiled - upsampled).abs().mean()) < 0.5


def test_averaged_weights_are_used_unless_the_option_says_otherwise() -> None:
    net, average, given = network(), network(seed=4), state(12, 16)
    within = context(net, ema_networks={"g": average})
    assert torch.equal(regression()(given, within)["restored"], regression()(given, context(average))["restored"])
    assert torch.equal(
        regression(use_ema=False)(given, within)["restored"], regression()(given, context(net))["restored"]
    )


def test_progress_is_told_and_the_mode_put_back() -> None:
    told: list[tuple[str, int, int]] = []
    net = network().train()
    regression(tile=32)(state(20, 40), context(net, on_step=lambda *news: told.append(news)))
    assert told[-1][0] == "restored"
    assert told[-1][1] == told[-1][2] > 2
    assert net.training


@pytest.mark.parametrize(
    ("option", "value"), [("sampler", "ddim"), ("eta", 0.5), ("respaced_timestep_spacing", 4), ("tile_jitter", True)]
)
def test_options_of_diffusion_are_refused(option: str, value: Any) -> None:
    data = {"type": "regression", "generator": "g", "model_input_keys": KEYS, "out": "restored", option: value}
    with pytest.raises(ValidationError) as caught:
        RegressionOptions.model_validate(data)
    (issue,) = issues_of(RegressionOptions, caught.value, data)
    assert issue.path == (option,)
    assert "unknown key" in issue.message
    assert "tile_overlap" in issue.message or "did you mean" in issue.message


def test_networks_that_do_not_fit_are_refused() -> None:
    def said(**changes: Any) -> str:
        networks = {"g": network(), "noisy": network(out_channels=6, residual_from_low_res=False, residual_scale=1.0)}
        issues = regression(**changes).options.problems(networks)
        return " | ".join(f"{'.'.join(map(str, issue.path))}: {issue.message}" for issue in issues)

    assert said() == ""
    assert "generator: noisy learns a variance" in said(generator="noisy")
    assert "model_input_keys.low_res: missing; g takes low_res" in said(model_input_keys={})
    assert "generator: no network 'h'" in said(generator="h")
    assert "tile: g at scale 2 needs a multiple of 8" in said(tile=36)
    with pytest.raises(ConfigError, match="restored: g was trained to reverse a diffusion"):
        regression()(state(12, 16), context(network(), processes={"g": ProcessOptions()}))


def test_a_plain_restorer_learns_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = recipe_data(fill(tmp_path / "im"), {"train": {"niter": 20}})
    data["networks"] = {"generator": {"which_model_G": "unet_diffusion", "args": PLAIN}}
    run = {"type": "generator", "generator": "generator", "in": "up", "model_input_keys": KEYS, "out": "restored"}
    data["steps"]["generator"] |= {
        "injectors": {"up": {"type": "interpolate", "in": "lq", "like": "hq", "out": "up"}, "run": run},
        "losses": {
            "image": {"type": "pixel", "kind": "l2", "key": "restored", "target": "hq"},
            "bicubic": {"type": "pixel", "kind": "l2", "key": "up", "target": "hq", "weight": 0.0},
        },
    }
    trainer = make_trainer(write_recipe(tmp_path / "recipe.yml", data))
    batches = trainer._batches()
    gains = []
    for _ in range(20):
        losses = trainer._iterate(next(batches)).read().losses
        gains.append(losses["bicubic"] - losses["image"])
    assert abs(gains[0]) < 0.1 * losses["bicubic"]  # it starts from the upsampled image
    assert min(gains[-5:]) > max(gains[0], 0.0)
    assert min(gains[-5:]) > 0.01 * losses["bicubic"]


def test_a_test_run_may_prepare_its_images_with_injectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = fill(tmp_path / "im", 1)
    net = network(num_corruptions=0)
    save_checkpoint(tmp_path / "net.safetensors", net.state_dict(), CheckpointMetadata.of(net, "ema", 3, {}))
    restore = {
        "type": "regression", "generator": "g", "output_scale_factor": 2, "out": "restored",
        "model_input_keys": {"low_res": "noisy"},
    }  # fmt: skip
    data = {
        "name": "prepared", "device": "cpu", "path": {"pretrain_model_g": "net.safetensors"},
        "datasets": {"test": {"mode": "imagefolder", "paths": str(photos), "skip_lq": True, "rgb_n1_to_1": True}},
        "steps": {"s": {"injectors": {
            "gray": {"type": "gray", "in": "hq", "out": "gray"},
            "noise": {"type": "add_noise", "in": "gray", "amplitude": 0.02, "out": "noisy"},
            "never": {"type": "add_noise", "in": "gone", "amplitude": 0.02, "out": "unused", "train": True},
            "restore": restore,
        }}},
    }  # fmt: skip
    code, said = run_test("-opt", write_recipe(tmp_path / "r.yml", data))
    assert code == 0, said
    (result,) = (tmp_path / "results/prepared/test").glob("*.png")
    assert read_image(result).rgb.shape == (80, 96, 3)
    data["steps"]["s"]["injectors"]["noise"] = {"type": "interpolate", "in": "gray", "factor": 0.5, "out": "noisy"}  # type: ignore[index]
    code, said = run_test("-opt", write_recipe(tmp_path / "r.yml", data))
    assert code == 2
    assert "low_res: noisy is neither an image of the data nor made from one of the same size" in said
