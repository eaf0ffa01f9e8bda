import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import images
from pydantic import ValidationError
from torch import Tensor
from trainer_helpers import DIFFUSION, NETWORK

from codes.config.options import issues_of, validate_nested
from codes.graph.graph import StepContext
from codes.graph.injectors.tiled import image_seeds
from codes.models.diffusion.engine import Engine
from codes.models.diffusion.networks.unet import UNetModel
from codes.models.diffusion.noise import INITIAL_STEP, NoiseField
from codes.models.diffusion.process_options import ProcessOptions
from codes.models.diffusion.request import Request
from codes.models.diffusion.sampling_options import SamplingOptions
from codes.utils.errors import ConfigError
from codes.utils.rng import derive_seed, torch_globals_at

CPU = torch.device("cpu")
PROCESS = {key: DIFFUSION[key] for key in ("beta_schedule", "diffusion_args")}


def network() -> UNetModel:
    args = {key: tuple(value) if isinstance(value, list) else value for key, value in NETWORK.items()}
    with torch_globals_at("cpu", 3, "network"):
        net = UNetModel(UNetModel.Options.model_validate(args)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return net


NET = network()


def engine(**changes: Any) -> Engine:
    given = {"respaced_timestep_spacing": "trailing3", **PROCESS, **changes}
    options = validate_nested(SamplingOptions, given)
    return Engine(NET, options.build_process(None, "generator"), options, CPU, torch.no_grad)


def conditions(height: int, width: int, count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(height * 100 + width)
    low_res = torch.rand(count, 3, height, width, generator=generator) * 2 - 1
    return {"low_res": low_res, "corruption_factor": torch.rand(count, 2, generator=generator)}


def sample(subject: Engine, height: int, width: int, seeds: tuple[int, ...] = (1, 2)) -> Tensor:
    """The image of a low resolution of (height, width), at twice its size."""
    image = images(subject, conditions(height, width, len(seeds)), 2 * height, 2 * width, 2, seeds)
    assert torch.isfinite(image).all()
    return image


def test_a_tile_that_covers_the_canvas_gives_the_untiled_result() -> None:
    whole = sample(engine(tile=0), 16, 24)
    assert whole.shape == (2, 3, 32, 48)
    assert torch.equal(sample(engine(tile=64, tile_overlap=16), 16, 24), whole)


def test_tiles_differ_from_the_whole_but_not_by_much() -> None:
    whole, tiled = sample(engine(tile=0), 24, 32), sample(engine(tile=32, tile_overlap=16), 24, 32)
    assert len(engine(tile=32, tile_overlap=16).plan(48, 64, 2)) > 1
    assert 0 < float((whole - tiled).abs().mean()) < 0.2


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver_pp"])
def test_the_tile_batch_size_changes_nothing(sampler: str) -> None:
    results = [
        sample(engine(sampler=sampler, tile=32, tile_overlap=16, tile_batch_size=size), 20, 36) for size in (1, 3, 16)
    ]
    assert results[0].shape == (2, 3, 40, 72)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=2e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 37), (16, 16)])
def test_any_size_is_padded_and_cropped(height: int, width: int) -> None:
    plan = engine().plan(2 * height, 2 * width, 2)
    assert plan.height % NET.multiple_of == plan.width % NET.multiple_of == 0
    assert plan.height >= 2 * height
    assert plan.width >= 2 * width
    assert sample(engine(), height, width).shape == (2, 3, 2 * height, 2 * width)


@pytest.mark.parametrize(("height", "width"), [(100, 80), (512, 512), (200, 1000), (72, 73), (8, 300)])
def test_tiles_are_chosen_so_that_little_is_computed_twice(height: int, width: int) -> None:
    plan = engine().plan(height, width, 2)
    assert plan.overlap == tuple(min(8, side - 8) for side in plan.tile)  # an eighth of 32, in multiples of 8
    assert max(plan.tile) <= 72  # 2.25 * 32
    for canvas, side, origins in ((plan.height, plan.tile[0], plan.ys), (plan.width, plan.tile[1], plan.xs)):
        fewest = max(-(-(canvas - 8) // (72 - 8)), 1)
        assert len(origins) == fewest
        assert side * fewest < canvas + 8 * (fewest - 1) + 8 * fewest  # what they share, and less than 8 px each


def test_a_tile_that_is_asked_for_is_taken() -> None:
    assert engine(tile=32).plan(100, 80, 2).tile == (32, 32)
    assert engine(tile=32).plan(100, 80, 2).overlap == (8, 8)
    assert engine(tile=48, tile_overlap=16).plan(100, 80, 2).tile == (48, 48)
    assert len(engine(tile=0).plan(100, 80, 2)) == 1


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    cond = conditions(8, 12)
    for number, seed in enumerate((1, 2)):
        alone = {name: value[number : number + 1] for name, value in cond.items()}
        image = images(engine(), alone, 16, 24, 2, (seed,))
        torch.testing.assert_close(image, sample(engine(), 8, 12)[number : number + 1], rtol=0, atol=2e-4)


def test_other_seeds_give_other_images() -> None:
    first, second = sample(engine(), 8, 12, (1, 2)), sample(engine(), 8, 12, (1, 3))
    torch.testing.assert_close(first[0], second[0])
    assert float((first[1] - second[1]).abs().mean()) > 1e-3


def context(positions: tuple[int, ...] = (4, 5)) -> StepContext:
    return StepContext({}, CPU, 9, positions, torch.no_grad)


def test_seeds_follow_from_the_names_of_images() -> None:
    both = image_seeds({"image_name": ["a.png", "b.png"]}, context(), 2, shared=False)
    assert both == [derive_seed(9, "sample", name) for name in ("a.png", "b.png")]
    assert image_seeds({"image_name": ["b.png"]}, context((0,)), 1, shared=False) == both[1:]
    assert image_seeds({}, context(), 2, shared=False) == [derive_seed(9, "sample", at) for at in (4, 5)]
    assert len(set(image_seeds({"image_name": ["a.png", "b.png"]}, context(), 2, shared=True))) == 1


def test_noise_types() -> None:
    cond = {name: value[:1].expand(2, *value.shape[1:]) for name, value in conditions(8, 12).items()}

    def made(kind: str, seeds: tuple[int, int], **changes: Any) -> Tensor:
        return images(engine(noise_type=kind, **changes), cond, 16, 24, 2, seeds)

    random, fixed, zero = made("random", (1, 2)), made("fixed", (1, 1)), made("zero", (1, 2))
    assert not torch.isclose(random[0], random[1]).all()
    torch.testing.assert_close(fixed[0], fixed[1])
    assert not torch.isclose(zero[0], zero[1]).all()  # the noise of the steps stays random
    assert not torch.isclose(zero[0], random[0]).all()


def test_zero_noise_and_ddim_know_no_chance() -> None:
    seeded = [sample(engine(sampler="ddim", noise_type="zero"), 8, 12, seeds) for seeds in ((1, 2), (3, 4))]
    assert torch.equal(*seeded)
    noisy = [sample(engine(sampler="ddim", noise_type="zero", eta=1.0), 8, 12, seeds) for seeds in ((1, 2), (3, 4))]
    assert not torch.equal(*noisy)


def test_use_ddim_is_the_sampler_ddim_and_the_samplers_differ() -> None:
    ddim = sample(engine(sampler="ddim"), 8, 12)
    assert torch.equal(sample(engine(use_ddim=True), 8, 12), ddim)
    others = [sample(engine(sampler=name), 8, 12) for name in ("ancestral", "dpm_solver_pp")]
    assert all(float((other - ddim).abs().mean()) > 1e-4 for other in others)


def test_stop_at_snr_ends_earlier() -> None:
    full, stopped = (engine(respaced_timestep_spacing=3, stop_at_snr=snr) for snr in (None, 10.0))
    assert sample(stopped, 8, 12).shape == (2, 3, 16, 24)
    assert stopped.process.num_timesteps == 3
    assert full.process.schedule.timesteps[0] == 0
    assert stopped.process.schedule.timesteps[-1] == full.process.schedule.timesteps[-1] == 99
    assert 5.0 < stopped.process.schedule.snr[0] <= 10.0
    with pytest.raises(ConfigError, match="stop_at_snr needs respaced_timestep_spacing"):
        engine(stop_at_snr=10.0, respaced_timestep_spacing=None)


def test_a_spacing_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="sampling from generator"):
        engine(respaced_timestep_spacing=1000)


def test_the_process_comes_from_the_options_or_from_training() -> None:
    trained = ProcessOptions.model_validate(PROCESS)
    bare = validate_nested(SamplingOptions, {"respaced_timestep_spacing": 5})
    process = bare.build_process(trained, "generator")
    assert process.num_timesteps == 5
    assert process.schedule.original_num_timesteps == 100
    with pytest.raises(ConfigError, match="under which process generator was trained"):
        bare.build_process(None, "generator")


def test_nothing_global_is_touched() -> None:
    torch.manual_seed(11)
    before, global_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    parameters = [value.clone() for value in NET.state_dict().values()]
    sample(engine(tile=32, tile_overlap=16), 20, 24)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], global_numpy)  # noqa: NPY002
    assert all(torch.equal(a, b) for a, b in zip(parameters, NET.state_dict().values(), strict=True))


@pytest.mark.parametrize("spacing", ["leading1", "leading2", "ddim1", "ddim2", "50,1"])
def test_steps_that_begin_past_the_noise_they_start_from_are_refused(spacing: str) -> None:
    with pytest.raises(ConfigError, match=rf"respaced_timestep_spacing is {spacing}: the first step.*use trailing\d+"):
        engine(respaced_timestep_spacing=spacing)


@pytest.mark.parametrize("spacing", [1, "1", (1,)])
def test_one_step_alone_begins_at_noise(spacing: Any) -> None:
    one = engine(respaced_timestep_spacing=spacing)
    assert one.process.schedule.timesteps.tolist() == [99]
    assert torch.equal(sample(one, 8, 12), sample(engine(respaced_timestep_spacing="trailing1"), 8, 12))


@pytest.mark.parametrize("spacing", [2, "leading10", "10,10", "linspace2", "trailing2", None, "karras3"])
def test_other_steps_begin_where_they_may(spacing: Any) -> None:
    assert sample(engine(respaced_timestep_spacing=spacing, sampler="ddim"), 4, 6).shape == (2, 3, 8, 12)


def test_karras_steps_need_an_image_to_begin_around() -> None:
    options = validate_nested(SamplingOptions, {"respaced_timestep_spacing": "karras4", **PROCESS})
    process = options.build_process(None, "generator")
    net = Linear()
    net.cond_names = frozenset()  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"is karras4: karrasN starts around the upsampled low_res, .*use trailing4"):
        Engine(net, process, options, CPU, torch.no_grad)  # type: ignore[arg-type]


class Linear(torch.nn.Module):
    """The exact network of the residual parameterization for x_start ~ N(upsampled low_res, residual_std^2): 0."""

    in_channels, image_size, multiple_of, minimum_size = 3, 32, 2, 2
    cond_names, low_res_upsampling, null_label = frozenset({"low_res"}), "bilinear", None

    def forward(self, x: Tensor, timesteps: Tensor, low_res: Tensor) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(x)


@pytest.mark.parametrize("tile", [0, 32])
@pytest.mark.parametrize("spacing", ["karras8", "trailing50"])
def test_the_dial_scales_the_distance_from_the_best_guess(spacing: str, tile: int) -> None:
    # The exact denoiser is linear, so the ODE takes x_T to low_res + temperature * factor * noise, where the factor is
    # the product of the steps' own: DDIM's map of the deviation d of x_t / signal from the prior is affine.
    process = {
        "beta_schedule": {"num_diffusion_timesteps": 1000},
        "diffusion_args": {"model_mean_type": "residual", "model_var_type": "fixed_small", "residual_std": 0.2},
    }
    cond = {"low_res": 0.3 * torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(1))}
    upsampled = torch.nn.functional.interpolate(cond["low_res"], scale_factor=2, mode="bilinear")

    def made(temperature: float) -> Tensor:
        given = {"respaced_timestep_spacing": spacing, "sampler": "ddim", "temperature": temperature, "tile": tile}
        options = validate_nested(SamplingOptions, {**given, **process, "clip_denoised": False})
        subject = Engine(Linear(), options.build_process(None, "g"), options, CPU, torch.no_grad)  # type: ignore[arg-type]
        return images(subject, cond, 40, 56, 2, (1, 2))

    steps = validate_nested(SamplingOptions, {"respaced_timestep_spacing": spacing, **process}).build_process(None, "g")
    sigma = steps.schedule.sigma[::-1]
    factor = sigma[0]
    for here, after in zip(sigma, [*sigma[1:], 0.0], strict=True):
        shrunk = 0.2**2 / (0.2**2 + here**2)  # deviation of x_start over that of the state
        factor *= shrunk + after / here * (1 - shrunk)
    noise = torch.stack([NoiseField(seed, 3)(INITIAL_STEP, 0, 40, 0, 56) for seed in (1, 2)])
    torch.testing.assert_close(made(0.0), upsampled, rtol=1e-4, atol=1e-5)
    for temperature in (0.3, 1.0):
        expected = upsampled + temperature * factor * noise
        torch.testing.assert_close(made(temperature), expected, rtol=1e-3, atol=1e-4)
    assert 0.12 < factor < 0.25  # at temperature 1 about the true deviation of .2


def test_a_temperature_that_noise_type_zero_contradicts_and_sigmas_without_karras_are_refused() -> None:
    for options, message in (
        ({"noise_type": "zero", "temperature": 0.3}, "starts without noise already"),
        ({"temperature": 2.5}, "less than or equal to 2"),
        ({"sigma_max": 2.0}, "belongs to karrasN"),
        ({"respaced_timestep_spacing": "karras4", "sigma_max": 0.005}, "must be below sigma_max"),
        ({"respaced_timestep_spacing": "karras0"}, "is not understood"),
    ):
        with pytest.raises(ValidationError) as raised:
            SamplingOptions.model_validate(options)
        assert any(message in issue.message for issue in issues_of(SamplingOptions, raised.value, options))


def test_a_temperature_is_part_of_what_a_state_on_disk_belongs_to(tmp_path: Path) -> None:
    cond = {name: value[:1] for name, value in conditions(8, 12).items()}
    keys = set()
    for temperature in (1.0, 0.3):
        folder = tmp_path / str(temperature)
        subject = engine(temperature=temperature, resume_seconds=0.0)
        subject.restore([Request(cond, 16, 24, 1, folder)], 2)
        keys.add(json.loads((folder / "state.json").read_text())["key"])
    assert len(keys) == 2
