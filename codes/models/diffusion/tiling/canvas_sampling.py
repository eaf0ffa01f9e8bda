"""Sampling images of any size band by band: what a sampler does, in two canvases and one row of tiles of memory.

Every sampler's rule works pixel by pixel, so the state of some rows can be advanced as soon as their prediction is
complete. The result is that of the sampler over a `TiledDenoiser`. Several images go through the steps together, so
that their tiles share batches; they may stand at different steps, as after an interruption.

C channels, (H, W) canvas, in pixels of the output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ....images.canvas_store import CanvasStore
from ....utils.rng import numpy_generator
from ..noise import INITIAL_STEP, NoiseField
from ..process import GaussianDiffusion
from ..samplers import Moment, Sampler
from .plan import Tile, TilePlan
from .runner import Band, TileRunner, View, region_of, upsampled_region


@dataclass(frozen=True, eq=False)
class SampledImage:
    """One image to sample.

    `cond` holds (1, ...) tensors; those of 4 dimensions have pixels `scales[name]` canvas pixels wide. `noise` draws
    its noise, of C channels. `store` keeps its state: C channels, and C more where the rule remembers x_start. It is
    afterwards at the last step, its state the image in [-1, 1], padded as the plan is.
    """

    cond: Mapping[str, Tensor]
    scales: Mapping[str, int]
    plan: TilePlan
    noise: NoiseField
    store: CanvasStore
    zero_start: bool = False  # begin from zeros instead of noise
    jitter: bool = False  # another grid of tiles at every step, drawn from the noise's seed

    def view(self, runner: TileRunner, index: int, t: int) -> View:
        """What the runner needs to know at sampling step `index`."""
        shift = self._shift(runner.fitted(self.plan), index) if self.jitter else (0, 0)
        return View(self.store.state, self.noise.channels, t, self.cond, self.scales, self.plan, shift)

    def _shift(self, plan: TilePlan, index: int) -> tuple[int, int]:
        rng = numpy_generator(self.noise.seed, "jitter", index)
        steps = [(side - overlap) // plan.align for side, overlap in zip(plan.tile, plan.overlap, strict=True)]
        down, right = (int(rng.integers(1, max(count, 1) + 1)) * plan.align for count in steps)
        return down, right


@torch.no_grad()
def sample_images(
    images: Sequence[SampledImage],
    runner: TileRunner,
    process: GaussianDiffusion,
    rule: Sampler,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Take every image through all steps that it has not done yet.

    `on_progress` is told the share of the work that is done, in (0, 1], after every batch of tiles; what it raises
    ends the sampling, with every store at a whole step.
    """
    for image in images:
        if image.store.steps_done == 0:
            _begin(image, runner, process)
    count = process.num_timesteps
    todo = sum(len(image.plan) * (count - image.store.steps_done) for image in images)
    done = 0
    for index in range(count):
        active = [image for image in images if image.store.steps_done == index]
        if not active:
            continue
        share = sum(len(image.plan) for image in active)
        views = [image.view(runner, index, count - 1 - index) for image in active]
        runner.on_tiles = _Progress(done / todo, share / todo, _tiles(views, runner), on_progress)
        for band in runner.bands(views):
            _advance(active[band.view], band, process, rule, index, count - 1 - index)
        for image in active:
            image.store.commit()
        done += share


class _Progress:
    """Turns numbers of tiles into the share of all the work."""

    def __init__(self, before: float, share: float, tiles: int, tell: Callable[[float], None] | None) -> None:
        self.before, self.share, self.tiles, self.tell = before, share, tiles, tell
        self.done = 0

    def __call__(self, tiles: int) -> None:
        # Tiles that were too large for the device are done again, so there may be more than were planned.
        self.done = min(self.done + tiles, self.tiles)
        if self.tell:
            self.tell(self.before + self.share * self.done / self.tiles)


def _tiles(views: Sequence[View], runner: TileRunner) -> int:
    return sum(len(runner.fitted(view.plan).shifted(*view.shift)) for view in views)


def _begin(image: SampledImage, runner: TileRunner, process: GaussianDiffusion) -> None:
    """Write x_T, a row of tiles at a time."""
    plan, channels, state = image.plan, image.noise.channels, image.store.state
    for y0, y1 in zip(plan.ys, (*plan.ys[1:], plan.height), strict=True):
        band = Tile(0, 0, y0, y1, 0, plan.width)
        noise = torch.zeros(channels, y1 - y0, plan.width) if image.zero_start else image.noise(INITIAL_STEP, *band[2:])
        cond = {name: _band_of(name, value, band, image, runner) for name, value in image.cond.items()}
        x_T = process.prior_sample(noise[None], cond)[0]
        state.write(y0, torch.cat([x_T, torch.zeros(state.channels - channels, *x_T.shape[1:])]))


def _band_of(name: str, value: Tensor, band: Tile, image: SampledImage, runner: TileRunner) -> Tensor:
    if value.ndim < 4:
        return value
    scale = image.scales[name]
    if name == "low_res" and scale > 1:
        return upsampled_region(value, band, image.plan, scale, runner.low_res_upsampling, torch.device("cpu"))
    return region_of(value, band, scale)


def _advance(image: SampledImage, band: Band, process: GaussianDiffusion, rule: Sampler, index: int, t: int) -> None:
    """One step for some rows."""
    channels, width = image.noise.channels, image.plan.width
    before = image.store.state.rows(band.y0, band.y1)[None]
    noise = partial(_noise_rows, image.noise, index, band, width)
    previous = before[:, channels:] if rule.remembers_x_start and index > 0 else None
    after = rule(Moment(process, t, before[:, :channels], band.prediction, noise, previous))
    if rule.remembers_x_start:
        after = torch.cat([after, band.prediction.x_start], dim=1)
    image.store.upcoming.write(band.y0, after[0])


def _noise_rows(noise: NoiseField, index: int, band: Band, width: int) -> Tensor:
    return noise(index, band.y0, band.y1, 0, width)[None]
