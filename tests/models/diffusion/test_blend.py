"""`blend`: a straight mix of the mean, told in one call from pure noise, and of what the sampler gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import images
from network_helpers import small_network
from torch import Tensor, nn

from codes import Restorer
from codes.config.options import validate_nested
from codes.graph.injectors.gaussian_diffusion_inference import GaussianDiffusionInferenceOptions
from codes.models.diffusion.engine import Engine
from codes.models.diffusion.networks.backbone import resized
from codes.models.diffusion.noise import MEAN_STEP, NoiseField
from codes.models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs, ProcessOptions, StudentOptions
from codes.models.diffusion.request import Request
from codes.models.diffusion.sampling_checks import sampling_problems, step_problems
from codes.models.diffusion.sampling_options import SamplingOptions
from codes.utils.errors import ConfigError

TRAINED = ProcessOptions(
    beta_schedule=BetaScheduleOptions(num_diffusion_timesteps=200),
    diffusion_args=DiffusionArgs(model_mean_type="residual", model_var_type="fixed_small"),
)
CPU = torch.device("cpu")
HEIGHT, WIDTH = 40, 56


class Counted(nn.Module):
    """A network that remembers which timesteps it was told, one entry a call."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_network(out_channels=3, num_corruptions=2, image_size=32).eval()
        self.told: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name in ("network", "told") else getattr(self.network, name)

    def forward(self, x: Tensor, timesteps: Tensor, **cond: Tensor) -> Tensor:
        self.told.append(timesteps.tolist())
        answer: Tensor = self.network(x, timesteps, **cond)
        return answer


NET = Counted()


def engine(**changes: Any) -> Engine:
    given = {"respaced_timestep_spacing": "karras3", "sampler": "ddim", "temperature": 0.4, **changes}
    options = validate_nested(SamplingOptions, given)
    process, mean = options.build_process(TRAINED, "g"), options.build_mean(TRAINED, "g")
    return Engine(NET, process, options, CPU, torch.no_grad, mean=mean)  # type: ignore[arg-type]


def conditions() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    low_res = torch.rand(2, 3, HEIGHT // 2, WIDTH // 2, generator=generator) * 2 - 1
    return {"low_res": low_res, "corruption_factor": torch.rand(2, 2, generator=generator)}


def made(**changes: Any) -> Tensor:
    return images(engine(**changes), conditions(), HEIGHT, WIDTH, 2, (5, 6))


@torch.no_grad()
def mean_by_hand() -> Tensor:
    """What the network says of pure noise at the last timestep of training, without tiles."""
    options = SamplingOptions(respaced_timestep_spacing="trailing1", sampler="ddim")
    process, cond = options.build_process(TRAINED, "g"), conditions()
    noise = torch.stack([NoiseField(seed, 3)(MEAN_STEP, 0, HEIGHT, 0, WIDTH) for seed in (5, 6)])
    prior = resized(cond["low_res"], noise, NET.low_res_upsampling)
    x, t = process.initial_state(noise, prior), torch.zeros(2, dtype=torch.int64)
    output = NET.network(process.network_input(x, t, prior), torch.tensor([199, 199]), **cond)
    return process.predict(output, x, t, True, prior).x_start


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpm_solver_pp"])
def test_a_blend_of_0_is_the_sample_1_the_mean_and_between_them_it_is_straight(sampler: str) -> None:
    sample, mean = made(tile=0, sampler=sampler), mean_by_hand()
    assert torch.equal(made(tile=0, sampler=sampler, blend=0.0), sample)
    torch.testing.assert_close(made(tile=0, sampler=sampler, blend=1.0), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        made(tile=0, sampler=sampler, blend=0.3), 0.7 * sample + 0.3 * mean, rtol=1e-5, atol=1e-6
    )
    assert (sample - mean).abs().mean() > 1e-2


@pytest.mark.parametrize("more", [{}, {"tile_jitter": True}, {"dynamic_threshold": True}])
def test_a_tiled_blend_is_straight_too_and_its_mean_does_not_know_the_temperature(more: dict[str, Any]) -> None:
    tiles = {"tile": 32, "tile_overlap": 8, **more}
    sample, mean = made(**tiles), made(**tiles, blend=1.0)
    torch.testing.assert_close(made(**tiles, blend=0.6), 0.4 * sample + 0.6 * mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(made(**tiles, blend=1.0, temperature=0.0), mean)
    assert not torch.equal(made(**tiles, temperature=0.0), sample)


def test_the_mean_costs_one_more_call_of_each_tile_at_the_last_timestep() -> None:
    told = []
    for blend in (0.0, 0.5):
        NET.told.clear()
        subject = engine(blend=blend, tile=0)
        images(subject, conditions(), HEIGHT, WIDTH, 2, (5, 6))
        of_both = [timestep for call in NET.told for timestep in call]
        told.append(of_both[::2])
        assert of_both[1::2] == told[-1]
        requests = [Request({}, HEIGHT, WIDTH, seed) for seed in (5, 6)]
        assert subject.tile_steps(requests, 2) == 2 * subject.calls == len(of_both)
    assert len(told[0]) == 3
    assert told[1] == [*told[0], 199]


class Stop(Exception):
    """Ends a sampling where a test wants it to end."""


@pytest.mark.parametrize("canvas", ["ram", "disk"])
@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_an_interrupted_blend_goes_on_at_its_step_with_the_same_bits(tmp_path: Path, canvas: str, share: float) -> None:
    given = {"tile": 32, "tile_overlap": 8, "blend": 0.4, "canvas": canvas, "tile_batch_size": 1}
    cond = {name: value[:1] for name, value in conditions().items()}

    def listen(done: float) -> None:
        if done > share:
            raise Stop

    kept = {"resume_seconds": 0.0} if canvas == "ram" else {}
    request = Request(cond, HEIGHT, WIDTH, 5, tmp_path)
    with pytest.raises(Stop):
        engine(**given, **kept).restore([request], 2, listen)
    NET.told.clear()
    again = engine(**given, **kept).restore([request], 2)[0].rows(0, HEIGHT)
    tiles = len(engine(**given).plan(HEIGHT, WIDTH, 2))
    assert len(NET.told) < 4 * tiles
    whole = engine(**{**given, "canvas": "ram"}).restore([Request(cond, HEIGHT, WIDTH, 5)], 2)[0].rows(0, HEIGHT)
    assert torch.equal(again, whole)


def test_a_blend_without_a_mean_is_refused_by_name() -> None:
    student = TRAINED.model_copy(update={"student": StudentOptions(sigma=1.0, temperature_max=0.6)})
    options = SamplingOptions(respaced_timestep_spacing="karras3", blend=0.5)
    network = small_network(out_channels=3, num_corruptions=2)
    [issue] = step_problems(options, "g", network, student)
    assert issue.path == ("blend",)
    assert "knows no mean" in issue.message
    assert not step_problems(options, "g", network, TRAINED)
    generating = small_network(out_channels=3)
    [issue] = sampling_problems(options, "g", generating, 1)
    assert issue.path == ("blend",)
    assert "restores nothing" in issue.message
    taught = Restorer(network, student, scale=2, device="cpu")
    with pytest.raises(ConfigError, match="knows no mean"):
        taught(np.zeros((8, 12, 3), np.uint8), blend=0.5)


def test_a_restorers_blend_is_that_of_the_injector() -> None:
    image = np.random.default_rng(1).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    restorer = Restorer(NET.network, TRAINED, scale=2, device="cpu")
    sample, half, mean = (
        restorer(image.astype(np.float32) / 255, [0.2, 0.5], steps=3, blend=blend) for blend in (0.0, 0.5, 1.0)
    )
    inner = (half > 0) & (half < 1) & (sample > 0) & (sample < 1) & (mean > 0) & (mean < 1)
    np.testing.assert_allclose(half[inner], (0.5 * sample + 0.5 * mean)[inner], atol=1e-5)
    assert inner.mean() > 0.3
    with pytest.raises(ConfigError, match="blend"):
        restorer(image, blend=1.5)


def test_one_quick_step_of_a_recipe_has_no_blend() -> None:
    given: Mapping[str, Any] = {
        "type": "gaussian_diffusion_inference", "generator": "g", "model_input_keys": {"low_res": "lq"}, "out": "o",
        "output_scale_factor": 2, "respaced_timestep_spacing": "karras8", "blend": 0.5,
    }  # fmt: skip
    options = validate_nested(GaussianDiffusionInferenceOptions, given)
    assert options.blend == 0.5
    assert options.in_one_step().blend == 0.0
