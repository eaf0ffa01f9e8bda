from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import images
from torch import Tensor
from trainer_helpers import DIFFUSION, NETWORK

from codes.config.options import validate_nested
from codes.graph.graph import StepContext
from codes.graph.injectors.gaussian_diffusion_inference import image_seeds
from codes.models.diffusion.engine import Engine
from codes.models.diffusion.networks.unet import UNetModel
from codes.models.diffusion.process_options import ProcessOptions
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


def test_the_tile_is_the_training_size_unless_the_option_says_otherwise() -> None:
    assert engine().plan(100, 80, 2).tile == (32, 32)
    assert engine().plan(100, 80, 2).overlap == (8, 8)
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
