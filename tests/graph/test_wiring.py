"""Options that switch on parts of the diffusion core: guidance, perturbation, label dropout, the bound, formats."""

import importlib.util
import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import images
from safetensors.torch import load_file
from torch import Tensor
from trainer_helpers import DIFFUSION, NETWORK, fill, merged, recipe_data, write_recipe

from codes import test, train
from codes.graph.graph import StepContext
from codes.graph.injectors.gaussian_diffusion import GaussianDiffusionInjector, GaussianDiffusionOptions
from codes.models.diffusion.denoiser import NetworkDenoiser
from codes.models.diffusion.engine import Engine
from codes.models.diffusion.networks.base import DiffusionNetwork
from codes.models.diffusion.networks.unet import UNetModel, UNetOptions
from codes.models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs, ProcessOptions, build_process
from codes.models.diffusion.sampling_options import SamplingOptions
from codes.recipe.networks import compile_network
from codes.utils.errors import ConfigError

CPU = torch.device("cpu")


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def engine(**options: Any) -> Engine:
    network = UNetModel(UNetOptions.model_validate({**NETWORK, "attention_resolutions": (2,), "channel_mult": (1, 2)}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():  # the head is zero at the start, which would hide every difference
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    process = build_process(
        ProcessOptions(beta_schedule=BetaScheduleOptions(num_diffusion_timesteps=100), diffusion_args=DiffusionArgs())
    )
    return Engine(network.eval(), process, SamplingOptions(**options), CPU, nullcontext)


@torch.no_grad()
def test_guidance_on_low_res_is_linear_in_eps_and_clipped_outside() -> None:
    made = engine(guidance_scale=3.0, guidance_low_res=0.25)
    x_t, t = gaussian(0, 2, 3, 16, 24), torch.tensor([10, 70])
    cond = {"low_res": gaussian(1, 2, 3, 8, 12).clamp(-1, 1), "corruption_factor": torch.rand(2, 2)}
    plain = NetworkDenoiser(made.network, made.process, clip_denoised=False, low_res_upsampling="bilinear")
    given, null = plain(x_t, t, cond), plain(x_t, t, {**cond, "low_res": 0.25 * cond["low_res"]})
    x_start = (null.x_start + 3.0 * (given.x_start - null.x_start)).clamp(-1, 1)
    guided = made.denoiser()(x_t, t, cond)
    torch.testing.assert_close(guided.x_start, x_start, rtol=1e-4, atol=5e-5)  # one batch of four rounds otherwise
    assert not torch.equal(guided.x_start, given.x_start.clamp(-1, 1))
    torch.testing.assert_close(guided.log_variance, given.log_variance)


def test_epsilon_scale_and_dynamic_threshold_change_the_result_within_range() -> None:
    cond = {"low_res": gaussian(1, 2, 3, 8, 12).clamp(-1, 1), "corruption_factor": torch.rand(2, 2)}

    def sampled(**options: Any) -> Tensor:
        made = engine(respaced_timestep_spacing=4, tile=0, **options)
        made = Engine(made.network, made.process.respaced(4), made.options, CPU, nullcontext)
        return images(made, cond, 16, 24, 2, [1, 2])

    plain, scaled, thresholded = sampled(), sampled(epsilon_scale=1.2), sampled(dynamic_threshold=True)
    assert not torch.allclose(plain, scaled)
    assert not torch.allclose(plain, thresholded)
    assert max(float(image.abs().max()) for image in (plain, scaled, thresholded)) <= 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_rescale": 0.5}, "guidance_scale"),
        ({"use_ddim": True, "sampler": "ancestral"}, "contradicts"),
        ({"eta": 0.5}, "belongs to the sampler ddim"),
        ({"tile": 32, "tile_overlap": 32}, "smaller than the tile"),
    ],
)
def test_contradictions_of_sampling_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        SamplingOptions(**options)
    issues = [issue for error in caught.value.errors() for issue in error["ctx"]["issues"]]  # type: ignore[attr-defined]
    assert any(message in f"{issue.path} {issue.message}" for issue in issues)


class Recorder(torch.nn.Module):
    """Stands for a class-conditional network and remembers what it was given."""

    null_label = 10
    low_res_upsampling = "bicubic"
    adds_low_res = False

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:
        self.seen = {"x": x, "t": timesteps, "y": y}
        return torch.cat([x, x], dim=1)


def run_injector(**options: Any) -> tuple[dict[str, Any], Recorder]:
    settings = merged(DIFFUSION, {"model_input_keys": {"y": "y"}, **options})
    settings["model_input_keys"] = {"y": "y"}
    network = Recorder()
    networks: Any = {"generator": network}
    context = StepContext(networks, CPU, 3, range(40, 104), nullcontext)
    state = {"hq": gaussian(2, 64, 3, 8, 4).clamp(-1, 1), "y": torch.arange(64) % 10}
    injector = GaussianDiffusionInjector(GaussianDiffusionOptions.model_validate(settings))
    return injector(state, context), network


def test_label_dropout_replaces_a_share_of_the_labels_by_the_null_label() -> None:
    _, kept = run_injector()
    _, some = run_injector(label_dropout=0.25)
    _, everything = run_injector(label_dropout=1.0)
    assert torch.equal(kept.seen["y"], torch.arange(64) % 10)
    dropped = some.seen["y"] == 10
    assert 0.1 < float(dropped.float().mean()) < 0.45
    assert torch.equal(some.seen["y"][~dropped], kept.seen["y"][~dropped])
    assert bool((everything.seen["y"] == 10).all())


def test_input_perturbation_changes_what_the_network_sees_by_its_amplitude() -> None:
    _, plain = run_injector()
    _, perturbed = run_injector(input_perturbation=0.1)
    assert torch.equal(plain.seen["t"], perturbed.seen["t"])
    extra = perturbed.seen["x"] - plain.seen["x"]
    # sqrt(1 - abar) times the amplitude, so at most 0.1 and most at the noisy end
    assert 0.01 < float(extra.std()) < 0.1


def test_label_dropout_needs_a_null_label() -> None:
    class WithoutNull(Recorder):
        null_label = None  # type: ignore[assignment]
        cond_names = frozenset({"y"})
        in_channels, out_channels, options = 3, 6, object()

    settings = GaussianDiffusionOptions.model_validate(
        {**DIFFUSION, "model_input_keys": {"y": "y"}, "label_dropout": 0.1}
    )
    networks: Mapping[str, DiffusionNetwork] = {"generator": WithoutNull()}  # type: ignore[dict-item]
    assert any("null label" in issue.message for issue in settings.problems(networks))


def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "photos")
    recipe = write_recipe(tmp_path / "tiny.yml", recipe_data(folder, changes))
    assert train.main(["-opt", str(recipe)]) == 0
    return recipe


def test_bits_per_dimension_of_a_dataset_as_a_test_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, monkeypatch)
    dataset = recipe_data(tmp_path / "photos")["datasets"]["train"]
    bits = {
        "type": "bits_per_dimension",
        "for": "generator",
        "dataset": {**dataset, "tile": "center"},
        "model_input_keys": {"low_res": "lq", "corruption_factor": "corruption_entropy"},
        "diffusion_params": {"respaced_timestep_spacing": 5},
        "max_images": 2,
    }
    data = {
        "name": "bits",
        "device": "cpu",
        "path": {"pretrain_model_generator": "auto", "experiment": "tiny"},
        "eval": {"evaluators": {"bits": bits}},
    }
    assert test.main(["-opt", str(write_recipe(tmp_path / "bits.yml", data))]) == 0
    metrics = json.loads((tmp_path / "results/bits/evaluation.json").read_text())["bits"]
    assert metrics["images"] == 2
    assert metrics["bits_per_dimension"] > metrics["last_step"] > 0


def test_pth_checkpoints_resume_and_load_with_a_networks_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, folder = trained(tmp_path, monkeypatch, logger={"checkpoint_format": "pth"}), tmp_path / "photos"
    models = tmp_path / "experiments/tiny/models"
    assert sorted(path.name for path in models.iterdir()) == ["3_generator.pth", "3_generator_ema.pth"]
    bare = torch.load(models / "3_generator_ema.pth", weights_only=True)
    assert "input_blocks.0.0.weight" in bare
    assert train.main(["-opt", str(recipe), "--auto_resume", "--set", "train.niter=4"]) == 0
    assert (models / "4_generator.pth").exists()
    beta = {"schedule_name": "linear", "num_diffusion_timesteps": 100}
    restore = {
        "type": "gaussian_diffusion_inference",
        "generator": "generator",
        "beta_schedule": beta,
        "diffusion_args": DIFFUSION["diffusion_args"],
        "model_input_keys": {"low_res": "hq"},
        "output_scale_factor": 2,
        "respaced_timestep_spacing": 2,
        "out": "restored",
    }
    data = {
        "name": "from_pth",
        "device": "cpu",
        "datasets": {"test": {"mode": "imagefolder", "paths": str(folder), "skip_lq": True, "rgb_n1_to_1": True}},
        "networks": {"generator": {"which_model_G": "unet_diffusion", "args": NETWORK}},
        "path": {"pretrain_model_generator": str(models / "4_generator_ema.pth")},
        "steps": {"restore": {"injectors": {"restore": restore}}},
    }  # fmt: skip
    assert test.main(["-opt", str(write_recipe(tmp_path / "infer.yml", data))]) == 0
    assert len(list((tmp_path / "results/from_pth/test").glob("*.png"))) == 4


@pytest.mark.slow
def test_compiled_networks_train_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").mkdir()
    trained(tmp_path / "plain", monkeypatch)
    plain = torch.load(tmp_path / "plain/experiments/tiny/training_state/3.state", weights_only=True)
    (tmp_path / "compiled").mkdir()
    trained(tmp_path / "compiled", monkeypatch, compile=True)
    compiled = torch.load(tmp_path / "compiled/experiments/tiny/training_state/3.state", weights_only=True)
    for key, moments in plain["optimizers"]["generator"]["state"].items():
        other = compiled["optimizers"]["generator"]["state"][key]["exp_avg"]
        torch.testing.assert_close(other, moments["exp_avg"], rtol=1e-3, atol=1e-5)
    file = "experiments/tiny/models/3_generator.safetensors"
    assert load_file(tmp_path / "plain" / file).keys() == load_file(tmp_path / "compiled" / file).keys()


def test_compiling_without_what_it_needs_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(2, 3)
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on a CPU, and /no/such/compiler is not there"):
        compile_network(network, torch.device("cpu"))
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    with pytest.raises(ConfigError, match="needs the package triton on CUDA"):
        compile_network(network, torch.device("cuda"))
    assert network._compiled_call_impl is None
