"""Sampling band by band: the sampler's own result, in memory and on disk, interrupted or not."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusion_helpers import parameterized
from reference_sampling import CanvasNoise, TiledDenoiser, steps_of
from torch import Tensor

from codes.images.canvas import RamCanvas
from codes.images.canvas_store import CanvasStore, DiskStore, RamStore
from codes.models.diffusion.noise import NoiseField
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process import GaussianDiffusion
from codes.models.diffusion.samplers import SAMPLERS, Ddim, Moment, Sampler
from codes.models.diffusion.schedule import NoiseSchedule
from codes.models.diffusion.tiling.blending import RollingBlend
from codes.models.diffusion.tiling.canvas_sampling import SampledImage, canvas_channels, sample_images
from codes.models.diffusion.tiling.plan import Tile, TilePlan
from codes.models.diffusion.tiling.runner import Band, TileRunner, View
from codes.models.diffusion.tiling.whole_image import Adjustment
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


def image(number: int, size: tuple[int, int], sampler: str, make: Make = ram, **changes: Any) -> SampledImage:
    plan = TilePlan.cover(*size, 16, 6, align=2)
    planes = 6 if RULES[sampler].remembers_x_start else 3
    scales = {"low_res": 2}
    store = make(planes, (3, *size))
    return SampledImage(cond(number, *size), scales, plan, NoiseField(number, 3), store, **changes)


def runner(batch: int = 3, denoiser: Blur | None = None) -> TileRunner:
    return TileRunner(
        denoiser or Blur(), PROCESS.eps_from_x_start, tile_batch_size=batch, low_res_upsampling="bilinear"
    )


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
    low_res = torch.nn.functional.interpolate(subject.cond["low_res"], scale_factor=2, mode="bilinear")
    x_T = PROCESS.initial_state(noise.initial(), low_res[..., : size[0], : size[1]])
    *_, last = steps_of(RULES[sampler], tiled, PROCESS, x_T, subject.cond, noise)
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
        Small(),
        PROCESS.eps_from_x_start,
        4,
        smaller_plan=lambda plan: plan.smaller(4),
        on_event=told.append,
        low_res_upsampling="bilinear",
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


def test_memory_that_runs_out_in_the_blending_halves_the_batch_then_shrinks_the_tile(monkeypatch) -> None:
    expected = sampled([image(number, (26, 30), "ddim") for number in range(2)], "ddim", batch=4)
    add, left = RollingBlend.add, [3]

    def failing(blend: RollingBlend, tile: Tile, prediction: Prediction) -> None:
        if left[0] and tile.y0 > 0:
            left[0] -= 1
            raise torch.OutOfMemoryError("no memory")
        add(blend, tile, prediction)

    monkeypatch.setattr(RollingBlend, "add", failing)
    told: list[str] = []
    subject = runner(4)
    subject.smaller_plan, subject.on_event = lambda plan: plan.smaller(4), told.append
    images = [image(number, (26, 30), "ddim") for number in range(2)]
    left[0] = 2
    sample_images(images, subject, PROCESS, Ddim(eta=0.5))
    for one, same in zip(images, expected, strict=True):
        torch.testing.assert_close(one.store.state.rows(0, 26)[:3], same)
    assert [line.partition(": ")[2] for line in told] == [
        "repeating this step with 2 tiles at once",
        "repeating this step with 1 tiles at once",
    ]
    left[0] = 1
    images = [image(number, (26, 30), "ddim") for number in range(2)]
    sample_images(images, subject, PROCESS, Ddim(eta=0.5))
    assert told[2].endswith("repeating this step with tiles of 8x8")
    assert all(torch.isfinite(one.store.state.rows(0, 26)).all() for one in images)
    left[0] = 9
    with pytest.raises(TesseraError, match="ran out of memory with a single tile"):
        sample_images([image(0, (26, 30), "ddim")], subject, PROCESS, Ddim(eta=0.5))


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
    assert [
        band.y1 for band in TileRunner(denoiser, PROCESS.eps_from_x_start, low_res_upsampling="bilinear").bands([view])
    ] == [*plan.ys[1:], 24]
    for of_tile, tile in zip(seen, plan.tiles, strict=True):
        assert torch.equal(of_tile, whole[:, :, tile.y0 : tile.y1, tile.x0 : tile.x1])


@pytest.mark.parametrize("size", [(16, 12), (40, 58)])
def test_a_sampler_that_reads_a_variance_it_has_not_declared_is_told(size: tuple[int, int]) -> None:
    class Undeclared(Sampler):
        def __call__(self, at: Moment) -> Tensor:
            return at.prediction.log_variance

    subject = TileRunner(
        Blur(),
        PROCESS.eps_from_x_start,
        needs_log_variance=Undeclared.needs_log_variance,
        low_res_upsampling="bilinear",
    )
    with pytest.raises(TesseraError, match="must declare needs_log_variance = True"):
        sample_images([image(0, size, "ddim")], subject, PROCESS, Undeclared())


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp"])
def test_a_variance_that_is_not_blended_changes_nothing(sampler: str) -> None:
    subject = image(2, (40, 58), sampler)
    lean = TileRunner(Blur(), PROCESS.eps_from_x_start, needs_log_variance=False, low_res_upsampling="bilinear")
    sample_images([subject], lean, PROCESS, RULES[sampler])
    assert torch.equal(subject.store.state.rows(0, 40)[:3], sampled([image(2, (40, 58), sampler)], sampler)[0])


class Halves:
    """A guided denoiser whose contrast differs between the two halves of the image, and a learned variance."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        low_res = torch.nn.functional.interpolate(cond["low_res"], x_t.shape[-2:], mode="nearest")
        given = 0.1 * x_t + low_res
        x_start = given * (1.0 + 2.0 * cond["weight"])
        eps = PROCESS.eps_from_x_start(x_t, t, x_start)
        return Prediction(x_start, eps, -2.0 - low_res.abs(), unguided=given)


def halves(plan: TilePlan, store: CanvasStore, **changes: Any) -> SampledImage:
    """Equally bright, with little contrast and weak guidance on the left, much and strong on the right."""
    height, width = plan.height, plan.width
    generator = torch.Generator().manual_seed(3)
    right = (torch.arange(width) >= width // 2).float()
    pattern = torch.rand(1, 3, height, width, generator=generator) - 0.5
    conditions = {"low_res": pattern * (0.2 + 0.8 * right), "weight": (0.2 + 0.8 * right).expand(1, 1, height, width)}
    return SampledImage(conditions, {"low_res": 1, "weight": 1}, plan, NoiseField(4, 3), store, **changes)


WHOLE = TilePlan.cover(40, 58, 58, 0, align=2)
TILED = TilePlan.cover(40, 58, 16, 6, align=2)
ADJUSTMENTS = {
    "rescale": Adjustment(0.7),
    "threshold": Adjustment(quantile=0.995),
    "both": Adjustment(0.7, 0.995),
    "clipped": Adjustment(0.7, clip=True),
}


def adjusted(adjustment: Adjustment, plan: TilePlan, sampler: str, make: Make = ram, **changes: Any) -> Tensor:
    rule = RULES[sampler]
    store = make(canvas_channels(3, rule, adjustment), (3, plan.height, plan.width))
    subject = halves(plan, store, **changes)
    sample_images(
        [subject],
        TileRunner(Halves(plan.width), PROCESS.eps_from_x_start, 3, low_res_upsampling="bilinear"),
        PROCESS,
        rule,
        None,
        adjustment,
    )
    return store.state.rows(0, plan.height)[:3].clone()


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_tiles_are_adjusted_by_the_numbers_of_the_whole_image(name: str, sampler: str) -> None:
    whole, tiled = (adjusted(ADJUSTMENTS[name], plan, sampler) for plan in (WHOLE, TILED))
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole, adjusted(Adjustment(), WHOLE, sampler), atol=1e-2)


def test_rescaled_halves_keep_the_contrast_that_the_whole_image_gives_them() -> None:
    deviations = [
        [float(half.std()) for half in adjusted(ADJUSTMENTS["rescale"], plan, "ddim").chunk(2, dim=2)]
        for plan in (WHOLE, TILED)
    ]
    assert deviations[0] == pytest.approx(deviations[1], rel=1e-3)
    assert deviations[0][1] > 3 * deviations[0][0]


def test_the_whole_image_is_adjusted_as_a_loop_over_all_of_it_would() -> None:
    adjustment, noise = ADJUSTMENTS["both"], CanvasNoise((4,), 3, 40, 58)
    subject = halves(WHOLE, ram(3, (3, 40, 58)))

    def denoiser(x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        prediction = Halves(58)(x_t, t, cond)
        assert prediction.unguided is not None
        ratio = prediction.unguided.std() / prediction.x_start.std()
        x_start = prediction.x_start * (0.3 + 0.7 * ratio)
        limit = max(float(x_start.abs().flatten().quantile(0.995, interpolation="lower")), 1.0)
        x_start = x_start.clamp(-limit, limit) / limit
        return prediction.at(x_start, PROCESS.eps_from_x_start(x_t, t, x_start))

    x_T = PROCESS.initial_state(noise.initial(), subject.cond["low_res"])
    *_, last = steps_of(RULES["ancestral"], denoiser, PROCESS, x_T, subject.cond, noise)
    torch.testing.assert_close(adjusted(adjustment, WHOLE, "ancestral"), last.x_t[0], rtol=1e-4, atol=1e-5)


def test_jitter_moves_the_tiles_of_adjusted_images_too() -> None:
    still, moved = (adjusted(ADJUSTMENTS["both"], TILED, "ddim", jitter=jitter) for jitter in (False, True))
    seen: list[tuple[int, int]] = []

    class Noting(TileRunner):
        def bands(self, views: Sequence[View]) -> Iterator[Band]:
            seen.extend(view.shift for view in views)
            return super().bands(views)

    subject = halves(TILED, ram(3, (3, 40, 58)), jitter=True)
    runner = Noting(Halves(58), PROCESS.eps_from_x_start, low_res_upsampling="bilinear")
    sample_images([subject], runner, PROCESS, RULES["ddim"], None, ADJUSTMENTS["both"])
    assert len(set(seen)) > 2
    torch.testing.assert_close(still, moved, rtol=1e-3, atol=1e-4)  # Halves works pixel by pixel


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_an_interrupted_image_that_is_adjusted_goes_on_with_the_same_bits(
    tmp_path: Path, kind: str, sampler: str
) -> None:
    adjustment, rule = ADJUSTMENTS["both"], RULES[sampler]

    def make(planes: int, shape: tuple[int, int, int]) -> CanvasStore:
        whole = (planes, *shape[1:])
        return DiskStore(tmp_path, "key", whole) if kind == "disk" else RamStore(whole, tmp_path, "key", seconds=0.0)

    def stop(done: float) -> None:
        if done > 0.5:
            raise Stop

    expected = adjusted(adjustment, TILED, sampler)
    subject = halves(TILED, make(canvas_channels(3, rule, adjustment), (3, 40, 58)))
    with pytest.raises(Stop):
        sample_images(
            [subject],
            TileRunner(Halves(58), PROCESS.eps_from_x_start, 3, low_res_upsampling="bilinear"),
            PROCESS,
            rule,
            stop,
            adjustment,
        )
    again = make(canvas_channels(3, rule, adjustment), (3, 40, 58))
    assert again.steps_done == 2
    subject = halves(TILED, again)
    sample_images(
        [subject],
        TileRunner(Halves(58), PROCESS.eps_from_x_start, 3, low_res_upsampling="bilinear"),
        PROCESS,
        rule,
        None,
        adjustment,
    )
    assert torch.equal(again.state.rows(0, 40)[:3], expected)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_temperature_scales_the_noise_of_the_start_and_of_the_steps(sampler: str) -> None:
    size, cool = (40, 58), image(7, (40, 58), sampler, temperature=0.3)
    noise = CanvasNoise((7,), 3, *size)
    low_res = torch.nn.functional.interpolate(cool.cond["low_res"], scale_factor=2, mode="bilinear")
    x_T = PROCESS.initial_state(0.3 * noise.initial(), low_res)
    tiled = TiledDenoiser(runner(2), cool.plan)
    *_, last = steps_of(RULES[sampler], tiled, PROCESS, x_T, cool.cond, lambda index: 0.3 * noise(index))
    torch.testing.assert_close(sampled([cool], sampler)[0], last.x_t[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_at_temperature_0_nothing_is_left_to_chance(sampler: str) -> None:
    results = []
    for seed in (1, 2):
        subject = image(7, (40, 58), sampler, temperature=0.0)
        results += sampled([replace(subject, noise=NoiseField(seed, 3))], sampler)
    assert torch.equal(*results)
    if sampler == "dpm_solver_pp":  # without noise of its own, a start without noise is all there is to it
        assert torch.equal(results[0], sampled([image(7, (40, 58), sampler, zero_start=True)], sampler)[0])
