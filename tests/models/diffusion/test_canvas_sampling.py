"""Sampling band by band: the sampler's own result, in memory and on disk, interrupted or not."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_helpers import parameterized
from reference_sampling import steps_of
from torch import Tensor

from codes.images.canvas import RamCanvas
from codes.images.canvas_store import CanvasStore, DiskStore, RamStore
from codes.models.diffusion.noise import CanvasNoise, NoiseField
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process import GaussianDiffusion
from codes.models.diffusion.samplers import SAMPLERS, Ddim, Moment, Sampler
from codes.models.diffusion.schedule import NoiseSchedule
from codes.models.diffusion.tiling.canvas_sampling import SampledImage, sample_images
from codes.models.diffusion.tiling.denoiser import TiledDenoiser
from codes.models.diffusion.tiling.plan import TilePlan
from codes.models.diffusion.tiling.runner import TileRunner, View
from codes.utils.errors import TesseraError

PROCESS = GaussianDiffusion(NoiseSchedule.named("linear", 100), parameterized("start_x"), "learned_range").respaced(5)
RULES: dict[str, Sampler] = {name: SAMPLERS.get(name)() for name in SAMPLERS.names()} | {"ddim": Ddim(eta=0.5)}
SAMPLER_NAMES = list(RULES)
Make = Callable[[int, tuple[int, int, int]], CanvasStore]


class Blur:
    """x_start from a neighbourhood of x_t and from low_res, so that tiles matter; and a learned variance."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        self.batches.append(tuple(x_t.shape))
        low_res = torch.nn.functional.interpolate(cond["low_res"], x_t.shape[-2:], mode="bilinear")
        near = torch.nn.functional.avg_pool2d(x_t, 5, 1, 2)
        x_start = (0.4 * near + 0.5 * low_res + 0.05 * cond["corruption_factor"].sum(1).view(-1, 1, 1, 1)).clamp(-1, 1)
        return Prediction(x_start, PROCESS.eps_from_x_start(x_t, t, x_start), -2.0 - near.abs())


def ram(planes: int, shape: tuple[int, int, int]) -> CanvasStore:
    return RamStore((planes, *shape[1:]))


def cond(number: int, height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    low_res = torch.rand(1, 3, math.ceil(height / 2), math.ceil(width / 2), generator=generator) * 2 - 1
    return {"low_res": low_res, "corruption_factor": torch.rand(1, 2, generator=generator)}


def image(number: int, size: tuple[int, int], sampler: str, make: Make = ram, **changes: bool) -> SampledImage:
    plan = TilePlan.cover(*size, 16, 6, align=2)
    planes = 6 if RULES[sampler].remembers_x_start else 3
    scales = {"low_res": 2}
    store = make(planes, (3, *size))
    return SampledImage(cond(number, *size), scales, plan, NoiseField(number, 3), store, **changes)


def runner(batch: int = 3, denoiser: Blur | None = None) -> TileRunner:
    return TileRunner(denoiser or Blur(), PROCESS.eps_from_x_start, tile_batch_size=batch)


def sampled(images: list[SampledImage], sampler: str, batch: int = 3) -> list[Tensor]:
    sample_images(images, runner(batch), PROCESS, RULES[sampler])
    assert all(one.store.steps_done == 5 for one in images)
    return [one.store.state.rows(0, one.plan.height)[:3].clone() for one in images]


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize("size", [(16, 12), (40, 58), (16, 70)])
def test_bands_give_what_the_sampler_gives_over_a_tiled_denoiser(sampler: str, size: tuple[int, int]) -> None:
    subject = image(7, size, sampler)
    tiled = TiledDenoiser(runner(2), subject.plan)
    noise = CanvasNoise((7,), 3, *size)
    *_, last = steps_of(RULES[sampler], tiled, PROCESS, noise.initial(), subject.cond, noise)
    torch.testing.assert_close(sampled([subject], sampler)[0], last.x_t[0], rtol=0, atol=0)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_images_of_several_sizes_share_batches_and_nothing_else(sampler: str) -> None:
    sizes = [(40, 58), (16, 12), (26, 30), (16, 12)]
    alone = [sampled([image(number, size, sampler)], sampler)[0] for number, size in enumerate(sizes)]
    for batch in (1, 4, 50):
        together = sampled([image(number, size, sampler) for number, size in enumerate(sizes)], sampler, batch)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_tiles_of_several_images_fill_the_batches() -> None:
    denoiser = Blur()
    images = [image(number, (26, 30), "ddim") for number in range(3)]
    assert len(images[0].plan) == 6
    sample_images(images, runner(9, denoiser), PROCESS, Ddim())
    assert [shape[0] for shape in denoiser.batches] == [9, 9] * 5


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_a_canvas_on_disk_gives_the_same_bits(tmp_path: Path, sampler: str) -> None:
    def disk(planes: int, shape: tuple[int, int, int]) -> CanvasStore:
        return DiskStore(tmp_path, "key", (planes, *shape[1:]))

    expected = sampled([image(3, (40, 58), sampler)], sampler)[0]
    assert torch.equal(sampled([image(3, (40, 58), sampler, disk)], sampler)[0], expected)


class Stop(Exception):
    """Ends a sampling where a test wants it to end."""


def interrupted(subject: SampledImage, sampler: str, share: float) -> None:
    def listen(done: float) -> None:
        if done > share:
            raise Stop

    with pytest.raises(Stop):
        sample_images([subject], runner(), PROCESS, RULES[sampler], listen)


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize("share", [0.05, 0.47, 0.95])
def test_an_interrupted_image_goes_on_at_its_step_with_the_same_bits(
    tmp_path: Path, kind: str, sampler: str, share: float
) -> None:
    def make(planes: int, shape: tuple[int, int, int]) -> CanvasStore:
        whole = (planes, *shape[1:])
        return DiskStore(tmp_path, "key", whole) if kind == "disk" else RamStore(whole, tmp_path, "key", seconds=0.0)

    expected = sampled([image(3, (40, 58), sampler)], sampler)[0]
    interrupted(image(3, (40, 58), sampler, make), sampler, share)  # no `keep`: as a killed process would end
    subject = image(3, (40, 58), sampler, make)
    assert subject.store.steps_done == int(share * 5)
    assert torch.equal(sampled([subject], sampler)[0], expected)


def test_one_that_was_interrupted_and_new_ones_are_sampled_together(tmp_path: Path) -> None:
    def make(planes: int, shape: tuple[int, int, int]) -> CanvasStore:
        return RamStore((planes, *shape[1:]), tmp_path, "key", seconds=0.0)

    expected = [sampled([image(number, (26, 30), "ddim")], "ddim")[0] for number in (0, 1)]
    interrupted(image(0, (26, 30), "ddim", make), "ddim", 0.5)
    both = [image(0, (26, 30), "ddim", make), image(1, (26, 30), "ddim")]
    assert [one.store.steps_done for one in both] == [2, 0]
    assert all(torch.equal(a, b) for a, b in zip(sampled(both, "ddim"), expected, strict=True))


def test_progress_rises_to_one() -> None:
    told: list[float] = []
    sample_images([image(0, (40, 58), "ddim")], runner(2), PROCESS, Ddim(), told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert len(told) > 20


def test_jitter_moves_the_grid_at_every_step_and_keeps_the_overlap() -> None:
    plan = TilePlan.cover(60, 78, 16, 6, align=2)
    subject = SampledImage(cond(0, 60, 78), {"low_res": 2}, plan, NoiseField(5, 3), ram(3, (3, 60, 78)), jitter=True)
    shifts = [subject.view(runner(), index, 0).shift for index in range(12)]
    assert len(set(shifts)) > 6
    assert shifts == [subject.view(runner(), index, 0).shift for index in range(12)]
    for shift in shifts:
        moved = plan.shifted(*shift)
        for origins, length in ((moved.ys, 60), (moved.xs, 78)):
            assert origins[0] == 0
            assert origins[-1] == length - 16
            assert all(0 < gap <= 10 and gap % 2 == 0 for gap in np.diff(origins))
    assert torch.isfinite(sampled([subject], "ddim")[0]).all()


def test_a_shift_that_breaks_the_overlap_is_refused() -> None:
    plan = TilePlan.cover(60, 78, 16, 6, align=2)
    for shift in ((3, 0), (0, 12), (-2, 0)):
        with pytest.raises(ValueError, match="use a multiple of 2 from 0 to 10"):
            plan.shifted(*shift)
    assert TilePlan.cover(12, 78, 16, 6, align=2).shifted(4, 0).ys == (0,)


def test_a_zero_start_draws_the_noise_of_the_steps_only() -> None:
    zero, random = (image(4, (26, 30), "ancestral", zero_start=start) for start in (True, False))
    first, second = sampled([zero], "ancestral")[0], sampled([random], "ancestral")[0]
    assert not torch.equal(first, second)
    assert float((first - second).abs().mean()) < 0.3


def test_memory_that_runs_out_shrinks_the_tile_in_the_middle_of_an_image() -> None:
    class Small(Blur):
        def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
            if x_t.shape[-1] > 8 or len(x_t) > 2:
                raise RuntimeError("CUDA out of memory")
            return super().__call__(x_t, t, cond)

    told: list[str] = []
    subject = TileRunner(
        Small(), PROCESS.eps_from_x_start, 4, smaller_plan=lambda plan: plan.smaller(4), on_event=told.append
    )
    images = [image(number, (26, 30), "ddim") for number in range(2)]
    sample_images(images, subject, PROCESS, Ddim())
    assert all(one.store.steps_done == 5 for one in images)
    assert all(torch.isfinite(one.store.state.rows(0, 26)).all() for one in images)
    assert [line.partition(": ")[2] for line in told] == [
        "going on with 2",
        "going on with 1",
        "repeating this step with tiles of 8x8",
    ]


def test_a_map_of_strengths_is_upsampled_as_if_whole() -> None:
    strengths = torch.rand(1, 5, 12, 17, generator=torch.Generator().manual_seed(4))
    whole = torch.nn.functional.interpolate(strengths, size=(24, 34), mode="bilinear", align_corners=False)
    plan = TilePlan.cover(24, 34, 12, 2, align=2)
    seen: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        assert t.tolist() == [3]
        seen.append(cond["corruption_factor"])
        return Prediction(x_t, x_t, x_t)

    view = View(
        RamCanvas(torch.zeros(3, 24, 34)), 3, 3, {"corruption_factor": strengths}, {"corruption_factor": 2}, plan
    )
    assert [band.y1 for band in TileRunner(denoiser, PROCESS.eps_from_x_start).bands([view])] == [*plan.ys[1:], 24]
    for found, tile in zip(seen, plan.tiles, strict=True):
        assert torch.equal(found, whole[:, :, tile.y0 : tile.y1, tile.x0 : tile.x1])


@pytest.mark.parametrize("size", [(16, 12), (40, 58)])
def test_a_sampler_that_reads_a_variance_it_has_not_declared_is_told(size: tuple[int, int]) -> None:
    class Undeclared(Sampler):
        def __call__(self, at: Moment) -> Tensor:
            return at.prediction.log_variance

    subject = TileRunner(Blur(), PROCESS.eps_from_x_start, needs_log_variance=Undeclared.needs_log_variance)
    with pytest.raises(TesseraError, match="must declare needs_log_variance = True"):
        sample_images([image(0, size, "ddim")], subject, PROCESS, Undeclared())


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp"])
def test_a_variance_that_is_not_blended_changes_nothing(sampler: str) -> None:
    subject = image(2, (40, 58), sampler)
    lean = TileRunner(Blur(), PROCESS.eps_from_x_start, needs_log_variance=False)
    sample_images([subject], lean, PROCESS, RULES[sampler])
    assert torch.equal(subject.store.state.rows(0, 40)[:3], sampled([image(2, (40, 58), sampler)], sampler)[0])
