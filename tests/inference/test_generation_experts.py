"""Two networks that share the noise levels: what each is trained on, and which of them is asked when sampling."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_helpers import changed, train
from generation_helpers import SAMPLING, TRAINING, draw_shapes, generate, npz, shake
from trainer_helpers import make_trainer

from codes.config.yaml_source import load_source
from codes.graph.injectors.gaussian_diffusion import GaussianDiffusionInjector
from codes.models.diffusion.networks.patch_unet import PatchUNetModel
from codes.models.diffusion.schedule import NoiseSchedule
from codes.recipe.recipe import read_recipe

SPLIT = 0.25
NODE = "steps.sample.injectors.sample"
EXPERTS = [f"{NODE}.generator=[low, high]", f"{NODE}.snr_splits=[{SPLIT}]"]
AUTO = ["path.pretrain_model_low=auto", "path.pretrain_model_high=auto"]


def two_experts():
    """The training recipe with a network for each side of the split."""
    data = yaml.safe_load(TRAINING)
    network = data["networks"].pop("generator")
    step = data["steps"].pop("generator")
    for number, name in enumerate(("low", "high")):
        diffusion = {
            **step["injectors"]["diffusion"], "generator": name, "out": f"mse_{name}", "out_key_vb_loss": f"vb_{name}",
            "sampler_type": f"uniform_split_{number}", "snr_splits": [SPLIT],
        }  # fmt: skip
        losses = {key: {"type": "direct", "key": f"{key}_{name}"} for key in ("mse", "vb")}
        data["networks"][name] = network
        data["steps"][name] = {"training": name, "injectors": {f"diffusion_{name}": diffusion}, "losses": losses}
    return yaml.safe_dump(data, sort_keys=False)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_shapes("shapes")
    Path("train.yml").write_text(two_experts())
    return tmp_path


def snr_of(timesteps, schedule="linear", count=100):
    return NoiseSchedule.named(schedule, count).snr[np.asarray(timesteps)]


@pytest.fixture
def heard(monkeypatch):
    """Network -> the timesteps that it was asked about, while the test runs."""
    timesteps_of = {}
    forward = PatchUNetModel.forward

    def listening(self, x, timesteps, *args, **named):
        timesteps_of.setdefault(id(self), []).extend(timesteps.tolist())
        return forward(self, x, timesteps, *args, **named)

    monkeypatch.setattr(PatchUNetModel, "forward", listening)
    return timesteps_of


@pytest.mark.usefixtures("here")
def test_each_expert_is_trained_on_its_own_noise_levels_alone(heard):
    trainer = make_trainer(Path("train.yml"), "train.niter=12")
    trainer.run()
    low, high = (heard[id(trainer.parts.networks[name])] for name in ("low", "high"))
    assert len(low) == len(high) == 24
    assert (snr_of(low) > SPLIT).all()
    assert (snr_of(high) <= SPLIT).all()
    assert len(set(low)) > 8
    assert len(set(high)) > 8


@pytest.mark.parametrize("schedule", ["linear", "linear0.025"])
def test_the_published_schedules_split_at_a_quarter(schedule):
    """1000 steps: both experts together visit every timestep, none twice."""
    recipe = read_recipe(
        load_source(Path(__file__).parents[2] / "recipes/diffusion/patch_diffusion/train_imagenet_256_p4.yml")
    )
    visited = []
    for step in recipe.steps.values():
        (options,) = step.injectors.values()
        named = options.beta_schedule.model_copy(update={"schedule_name": schedule})
        sampler = GaussianDiffusionInjector(options.model_copy(update={"beta_schedule": named})).timesteps
        t, weights = sampler.sample((torch.arange(4000) + 0.5) / 4000)
        assert weights.unique().tolist() == [1.0]
        visited.append(sorted(set(t.tolist())))
    low, high = visited
    assert snr_of(low, schedule, 1000).min() > SPLIT >= snr_of(high, schedule, 1000).max()
    assert low + high == list(range(1000))


@pytest.mark.usefixtures("here")
def test_experts_are_sampled_each_at_its_own_noise_levels(heard):
    assert train("-opt", "train.yml")[0] == 0
    for number, name in enumerate(("low", "high")):
        shake(Path("experiments/tiny/models") / f"2_{name}_ema.safetensors", seed=number)
    Path("generate.yml").write_text(changed(SAMPLING, ("path.pretrain_model_generator", ...)))
    heard.clear()
    code, said = generate(*EXPERTS, *AUTO, f"{NODE}.respaced_timestep_spacing=10", f"{NODE}.guidance_scale=2.0")
    assert code == 0, said
    asked = [sorted(set(timesteps)) for timesteps in heard.values()]
    high, low = sorted(asked, reverse=True)
    assert (snr_of(low) > SPLIT).all()
    assert (snr_of(high) <= SPLIT).all()
    assert len(low) + len(high) == 10
    images = npz()[1]["arr_0"]
    for name in ("low", "high"):
        alone = [f"{NODE}.generator={name}", f"path.pretrain_model_{name}=auto", f"name={name}"]
        assert generate(*alone, f"{NODE}.respaced_timestep_spacing=10", f"{NODE}.guidance_scale=2.0")[0] == 0
        assert not np.array_equal(npz(f"results/{name}")[1]["arr_0"], images)


@pytest.mark.usefixtures("here")
def test_experts_without_a_split_are_refused():
    Path("generate.yml").write_text(changed(SAMPLING, ("path.pretrain_model_generator", ...)))
    code, said = generate(EXPERTS[0], *AUTO)
    assert code == 2
    assert "snr_splits: 0 for 2 networks; give one fewer than the networks" in said
