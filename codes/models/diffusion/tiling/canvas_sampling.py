"""Sampling images of any size band by band: what a sampler does, in two canvases and one row of tiles of memory.

Every sampler's rule works pixel by pixel, so the state of some rows can be advanced as soon as their prediction is
complete; where numbers of the whole image are needed first (`Adjustment`), the prediction waits in the canvas that the
new state is going to fill. Several images go through the steps together, so
that their tiles share batches; they may stand at different steps, as after an interruption.

C channels, (H, W) canvas, in pixels of the output.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ....images.canvas import Canvas
from ....images.canvas_store import CanvasStore
from ....images.canvas_stream import CanvasRowWriter, RowReader
from ....images.enforced import Agreement
from ....utils.rng import numpy_generator
from ..noise import INITIAL_STEP, MEAN_STEP, NoiseField
from ..prediction import Lazy, Prediction
from ..process import GaussianDiffusion
from ..samplers import Moment, Sampler
from .blending import parts_of, undeclared
from .conditioning import Spatial, region_of, upsampled_region
from .memory import attempted
from .plan import Tile, TilePlan
from .runner import Band, TileRunner, View
from .whole_image import Adjustment, Gathered

NO_ADJUSTMENT = Adjustment()


@dataclass(frozen=True, eq=False)
class SampledImage:
    """One image to sample.

    `cond` holds (1, ...) tensors and canvases; canvases and tensors of 4 dimensions have pixels `scales[name]` canvas
    pixels wide. `noise` draws its noise, of C channels. `store` keeps its state, of `canvas_channels`. It is afterwards
    at the last step, its state the image in [-1, 1], padded as the plan is.
    """

    cond: Mapping[str, Spatial]
    scales: Mapping[str, int]
    plan: TilePlan
    noise: NoiseField
    store: CanvasStore
    zero_start: bool = False  # begin without noise
    temperature: float = 1.0  # factor of all noise, of the start and of the steps
    agreement: Agreement | None = None  # what its predictions must agree with, where the adjustment asks for it
    jitter: bool = False  # another grid of tiles at every step, drawn from the noise's seed

    def view(self, runner: TileRunner, index: int, t: int, x_t: Canvas | None = None) -> View:
        """What the runner needs to know at sampling step `index`; `x_t` stands in for the image's own state."""
        shift = self._shift(runner.fitted(self.plan), index) if self.jitter else (0, 0)
        return View(x_t or self.store.state, self.noise.channels, t, self.cond, self.scales, self.plan, shift)

    def noise_rows(self, index: int, y0: int, y1: int, device: torch.device) -> Tensor:
        """(1, C, y1 - y0, W) on `device`: the noise of sampling step `index` for some rows, at this temperature."""
        if self.temperature == 0 or (self.zero_start and index == INITIAL_STEP):
            return torch.zeros(1, self.noise.channels, y1 - y0, self.plan.width, device=device)
        return self.temperature * self.noise(index, y0, y1, 0, self.plan.width, device)[None]

    def _shift(self, plan: TilePlan, index: int) -> tuple[int, int]:
        rng = numpy_generator(self.noise.seed, "jitter", index)
        steps = [(side - overlap) // plan.align for side, overlap in zip(plan.tile, plan.overlap, strict=True)]
        down, right = (int(rng.integers(1, max(count, 1) + 1)) * plan.align for count in steps)
        return down, right


def canvas_channels(channels: int, rule: Sampler, adjustment: Adjustment) -> int:
    """Channels of a store: those of the image, and as many more for an x_start or a variance that is kept."""
    return 2 * channels if rule.remembers_x_start or _holds_variance(rule, adjustment) else channels


def _holds_variance(rule: Sampler, adjustment: Adjustment) -> bool:
    return rule.needs_log_variance and adjustment.changes_something


class Blending(NamedTuple):
    """How the mean is found and mixed in: what runs a process of one step, and the mean's share of the result."""

    runner: TileRunner
    process: GaussianDiffusion
    share: float


@torch.no_grad()
def sample_images(
    images: Sequence[SampledImage],
    runner: TileRunner,
    process: GaussianDiffusion,
    rule: Sampler,
    on_progress: Callable[[float], None] | None = None,
    adjustment: Adjustment = NO_ADJUSTMENT,
    blending: Blending | None = None,
) -> None:
    """Take every image through all steps that it has not done yet, `adjustment` being made to each prediction.

    With `blending` one more step follows, which mixes the mean into the result. It comes last so that nothing is kept
    for it meanwhile. `on_progress` is told the share of the work that is done, in (0, 1], after every batch of tiles;
    what it raises ends the sampling, with every store at a whole step.
    """
    images = _begun(images, runner, process)
    count = process.num_timesteps
    steps = [_Step(process, rule, index, count - 1 - index, runner.device) for index in range(count)]
    if blending:
        steps.append(_Mixing(blending.process, rule, count, 0, runner.device, blending.share))
    todo = sum(len(image.plan) * (len(steps) - image.store.steps_done) for image in images)
    done = 0
    for step in steps:
        active = [image for image in images if image.store.steps_done == step.index]
        if not active:
            continue
        if blending and step.index == count:  # the tiles and batches are those that have been found to fit
            runner = replace(blending.runner, tile_batch_size=runner.tile_batch_size, too_large=runner.too_large)
        share = sum(len(image.plan) for image in active)
        tell = partial(_Progress, done / todo, share / todo, tell=on_progress)
        while not attempted(lambda: _take(step, active, runner, adjustment, tell), runner.device):  # noqa: B023
            images = _sparing(images, runner)
            active = [image for image in images if image.store.steps_done == step.index]
        for image in active:
            image.store.commit()
        done += share


def _take(
    step: "_Step",
    images: Sequence[SampledImage],
    runner: TileRunner,
    adjustment: Adjustment,
    progress: "Callable[..., _Progress]",
) -> bool:
    """Write the states after a step; the states before it stay as they are. True, as it was not given up."""
    views = [step.view(image, runner) for image in images]
    runner.on_tiles = progress(tiles=_tiles(views, runner))
    writers = [CanvasRowWriter(image.store.upcoming, runner.device) for image in images]
    if adjustment.changes_something:
        _in_two_passes(images, writers, runner.bands(views), step, adjustment)
    else:
        for band in runner.bands(views):
            step.advance(images[band.view], band, writers[band.view])
    for writer in writers:
        writer.close()
    return True


def _sparing(images: Sequence[SampledImage], runner: TileRunner) -> list[SampledImage]:
    """The images where they take less of a device that ran out of memory: in host memory, else in smaller parts.

    Raises TesseraError where nothing is left to be saved.
    """
    moved = [image.store.to_host() for image in images]
    if not any(moved):
        runner.spare([image.plan for image in images])
        return [*images]
    if runner.on_event:
        runner.on_event(f"{runner.device} ran out of memory with the canvases: they go on in host memory")
    return [replace(image, cond={name: _on_host(value) for name, value in image.cond.items()}) for image in images]


def _on_host(value: Spatial) -> Spatial:
    return value.cpu() if isinstance(value, Tensor) else value


class _Progress:
    """Turns numbers of tiles into the share of all the work."""

    def __init__(self, before: float, share: float, *, tiles: int, tell: Callable[[float], None] | None) -> None:
        self.before, self.share, self.tiles, self.tell = before, share, tiles, tell
        self.done = 0

    def __call__(self, tiles: int) -> None:
        # Tiles that were too large for the device are done again, so there may be more than were planned.
        self.done = min(self.done + tiles, self.tiles)
        if self.tell:
            self.tell(self.before + self.share * self.done / self.tiles)


def _tiles(views: Sequence[View], runner: TileRunner) -> int:
    return sum(len(runner.fitted(view.plan).shifted(*view.shift)) for view in views)


def _begun(images: Sequence[SampledImage], runner: TileRunner, process: GaussianDiffusion) -> list[SampledImage]:
    """The images, those that nothing was done to yet at x_T."""

    def begin() -> bool:
        for image in images:
            if image.store.steps_done == 0:
                _begin(image, runner, process)
        return True

    while not attempted(begin, runner.device):
        images = _sparing(images, runner)
    return [*images]


def _begin(image: SampledImage, runner: TileRunner, process: GaussianDiffusion) -> None:
    """Write x_T, some rows at a time."""
    plan, channels, state, device = image.plan, image.noise.channels, image.store.state, runner.device
    writer = CanvasRowWriter(state, device)
    for y0, y1 in parts_of(0, plan.height, plan.width):
        noise = image.noise_rows(INITIAL_STEP, y0, y1, device)
        prior = _prior_rows(image, Tile(0, 0, y0, y1, 0, plan.width), runner)
        x_T = process.initial_state(noise, prior)[0]
        further = torch.zeros(state.channels - channels, *x_T.shape[1:], device=device)
        writer.write(y0, torch.cat([x_T, further]))
    writer.close()


def _prior_rows(image: SampledImage, band: Tile, runner: TileRunner) -> Tensor | None:
    """(1, C, h, W): the upsampled low_res for some rows, None where nothing is restored."""
    value = image.cond.get("low_res")
    if value is None:
        return None
    scale = image.scales["low_res"]
    if scale > 1:
        return upsampled_region(value, band, image.plan, scale, runner.low_res_upsampling, runner.device)
    return region_of(value, band, scale, image.plan.wrap).to(runner.device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class _Step:
    """Sampling step `index`, at `t`."""

    process: GaussianDiffusion
    rule: Sampler
    index: int
    t: int
    device: torch.device

    def view(self, image: SampledImage, runner: TileRunner) -> View:
        """What is denoised."""
        return image.view(runner, self.index, self.t)

    def advance(self, image: SampledImage, band: Band, writer: CanvasRowWriter) -> None:
        """Write the state after the step of some rows."""
        channels, before = image.noise.channels, band.state
        noise = partial(image.noise_rows, self.index, band.y0, band.y1, self.device)
        previous = before[:, channels:] if self.rule.remembers_x_start and self.index > 0 else None
        after = self.rule(Moment(self.process, self.t, before[:, :channels], band.prediction, noise, previous))
        _write(image, writer, band.y0, after, band.prediction.x_start if self.rule.remembers_x_start else None)


class _Start(Canvas):
    """The noisy state from which a process of one step tells the mean, drawn where it is read; nothing is kept."""

    def __init__(self, image: SampledImage, runner: TileRunner, process: GaussianDiffusion) -> None:
        super().__init__(image.noise.channels, image.plan.height, image.plan.width)
        self._image, self._runner, self._process = image, runner, process

    @property
    def device(self) -> torch.device:
        return self._runner.device

    def rows(self, y0: int, y1: int) -> Tensor:
        self._check(y0, y1)
        # At full strength whatever the temperature: with less noise than it is told the network sharpens too much.
        noise = self._image.noise(MEAN_STEP, y0, y1, 0, self.width, self.device)[None]
        prior = _prior_rows(self._image, Tile(0, 0, y0, y1, 0, self.width), self._runner)
        return self._process.initial_state(noise, prior)[0]

    def write(self, y0: int, rows: Tensor) -> None:
        raise NotImplementedError("a start is drawn, not written")

    def flush(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class _Mixing(_Step):
    """The step after the last: the mean is predicted from noise, and the result moves towards it by `share`."""

    share: float = 0.0

    def view(self, image: SampledImage, runner: TileRunner) -> View:
        return image.view(runner, self.index, self.t, _Start(image, runner, self.process))

    def advance(self, image: SampledImage, band: Band, writer: CanvasRowWriter) -> None:
        sample = image.store.state.rows(band.y0, band.y1)[None, : image.noise.channels].to(self.device)
        mixed = (1 - self.share) * sample + self.share * band.prediction.x_start
        _write(image, writer, band.y0, mixed, None)


def _write(image: SampledImage, writer: CanvasRowWriter, y0: int, first: Tensor, second: Tensor | None) -> None:
    """Fill rows of the coming canvas, of which the second half of the channels may hold nothing."""
    if second is None and image.store.upcoming.channels > first.shape[1]:
        second = torch.zeros_like(first)
    writer.write(y0, (first if second is None else torch.cat([first, second], dim=1))[0])


def _in_two_passes(
    images: Sequence[SampledImage],
    writers: Sequence[CanvasRowWriter],
    bands: Iterator[Band],
    step: _Step,
    adjustment: Adjustment,
) -> None:
    """One step of images whose predictions are adjusted: write them down and gather, then advance."""
    gathered: dict[int, Gathered] = {}
    for band in bands:
        image, predicted = images[band.view], band.prediction
        if band.first:  # perhaps anew, with smaller tiles
            values = image.noise.channels * image.plan.height * image.plan.width
            gathered[band.view] = Gathered(adjustment, values, image.agreement, image.plan.width)
        gathered[band.view].add(predicted.x_start, predicted.unguided, band.y0)
        second = predicted.log_variance if step.rule.needs_log_variance else None
        _write(image, writers[band.view], band.y0, predicted.x_start, second)
    for number, (image, writer) in enumerate(zip(images, writers, strict=True)):
        writer.close()
        spans = [*image.store.upcoming.bands()]
        states = RowReader(image.store.state, step.device, spans)
        predictions = RowReader(image.store.upcoming, step.device, spans[:1])  # not ahead of what is written
        for y0, y1 in spans:
            state, written = states.rows(y0, y1)[None], predictions.rows(y0, y1)[None].clone()
            prediction = _adjusted(written, state[:, : image.noise.channels], y0, gathered[number], step)
            step.advance(image, Band(number, y0, y1, prediction, state), writer)


def _adjusted(written: Tensor, x_t: Tensor, y0: int, gathered: Gathered, step: _Step) -> Prediction:
    """The prediction for some rows, from y0 on, that was written down, adjusted."""
    channels = x_t.shape[1]
    x_start = gathered.adjusted(written[:, :channels], y0)
    t = torch.full((1,), step.t, dtype=torch.int64, device=step.device)
    log_variance: Lazy = written[:, channels:] if step.rule.needs_log_variance else undeclared
    return Prediction(x_start, partial(step.process.eps_from_x_start, x_t, t, x_start), log_variance)
