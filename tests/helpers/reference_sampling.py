"""Sampling a whole image at once, step by step: what sampling band by band is compared with.

B images, C channels, (H, W) canvas, (h, w) tile; all in pixels of the output.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from codes.images.canvas import RamCanvas
from codes.images.reflection import reflected
from codes.models.diffusion.denoiser import Denoiser
from codes.models.diffusion.noise import INITIAL_STEP, NoiseField
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process import GaussianDiffusion
from codes.models.diffusion.samplers import Moment, Sampler
from codes.models.diffusion.tiling.plan import TilePlan
from codes.models.diffusion.tiling.runner import Band, TileRunner, View


class Step(NamedTuple):
    """One finished step: its index, the t it worked at, the state x_t after it and the x_start predicted in it."""

    index: int  # type: ignore[assignment] # hides tuple.index, which nobody asks of a step
    t: int
    x_t: Tensor
    x_start: Tensor


@torch.no_grad()
def steps_of(
    rule: Sampler,
    denoiser: Denoiser,
    process: GaussianDiffusion,
    x_T: Tensor,
    cond: Mapping[str, Tensor],
    noise: Callable[[int], Tensor],
    start: int = 0,
    previous_x_start: Tensor | None = None,
) -> Iterator[Step]:
    """All steps from `start` on, whose state before it is x_T (B, C, H, W); `noise` draws a step's field."""
    x, previous, count = x_T, previous_x_start, process.num_timesteps
    for index in range(start, count):
        t = count - 1 - index
        prediction = denoiser(x, torch.full((len(x),), t, dtype=torch.int64), cond)
        x = rule(Moment(process, t, x, prediction, partial(noise, index), previous))
        previous = prediction.x_start if rule.remembers_x_start else None
        yield Step(index, t, x, prediction.x_start)


@dataclass(frozen=True)
class CanvasNoise:
    """The `noise` argument of a sampler for a batch of images, image b drawing from `NoiseField(seeds[b], channels)`.

    An image's noise does not depend on the others in its batch.
    """

    seeds: Sequence[int]
    channels: int
    height: int
    width: int

    def __call__(self, step: int) -> Tensor:
        """The field of sampling step `step` (0, 1, ...): float32 (B, channels, height, width) on the CPU."""
        fields = [NoiseField(seed, self.channels)(step, 0, self.height, 0, self.width) for seed in self.seeds]
        return torch.stack(fields)

    def initial(self) -> Tensor:
        """The noise of x_T, independent of every step's: same shape."""
        return self(INITIAL_STEP)


class TiledDenoiser:
    """Runs the denoiser of `runner` on the tiles of `plan` and blends what it predicts into one prediction.

    It holds the whole prediction: `canvas_sampling` takes the same steps band by band in
    less memory. How tiles are batched and blended, and what happens when memory runs out,
    is said at `TileRunner`. A plan of one tile returns the denoiser's own prediction untouched.

    The state and the prediction lie in host memory; each batch of tiles is copied to the runner's device. Without
    gradients.
    """

    def __init__(self, runner: TileRunner, plan: TilePlan) -> None:
        self.runner = runner
        self._plan = plan

    @property
    def plan(self) -> TilePlan:
        """The tiles in use, perhaps smaller than those asked for."""
        return self.runner.fitted(self._plan)

    @property
    def tile_batch_size(self) -> int:
        """Tiles at once, perhaps fewer than asked for."""
        return self.runner.tile_batch_size

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        """The prediction for the canvas x_t (B, C, H, W) at t (B,).

        Conditioning of 4 dimensions is spatial, at the canvas' size divided by a whole number, and is cropped to each
        tile; `low_res` and maps of strengths, where smaller than the canvas, are upsampled to the tile from a crop with
        a margin, so that a tile sees at its edge what the upsampled whole shows there. Conditioning of 1 or 2
        dimensions goes by sample.

        Raises ValueError for shapes that do not fit, TesseraError when the smallest possible tile is too large for
        the device.
        """
        plan = self.plan
        scales = _checked_scales(plan, x_t, t, cond)
        views = [
            View(
                RamCanvas(x_t[image]), x_t.shape[1], int(t[image]),
                {name: value[image : image + 1] for name, value in cond.items()}, scales, plan,
            )
            for image in range(len(x_t))
        ]  # fmt: skip
        return _joined(self.runner.bands(views), x_t)


def _joined(bands: Iterator[Band], x_t: Tensor) -> Prediction:
    """All bands as one prediction; a fixed variance stays one number a sample, expanded."""
    whole: Prediction | None = None
    for number, y0, y1, prediction, *_ in bands:
        if whole is None:
            fixed = prediction.log_variance.stride()[-2:] == (0, 0)
            log_variance = torch.empty((*x_t.shape[:2], 1, 1) if fixed else x_t.shape, dtype=x_t.dtype)
            whole = Prediction(torch.empty_like(x_t), torch.empty_like(x_t), log_variance)
        for target, value in zip(whole, prediction, strict=True):
            if target.shape[-2:] == (1, 1) and value.shape[-2:] != (1, 1):
                target[number] = value[0, :, :1, :1]
            else:
                target[number, :, y0:y1] = value[0]
    assert whole is not None, "a canvas has at least one band"
    return Prediction(whole.x_start, whole.eps, whole.log_variance.expand_as(x_t))


def _checked_scales(plan: TilePlan, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> dict[str, int]:
    """Canvas pixels per pixel of each spatial conditioning."""
    canvas = (plan.height, plan.width)
    if x_t.ndim != 4 or tuple(x_t.shape[-2:]) != canvas:
        raise ValueError(f"x_t has shape {tuple(x_t.shape)}: the tile plan is for (B, C, {canvas[0]}, {canvas[1]})")
    if t.shape != (len(x_t),):
        raise ValueError(f"t has shape {tuple(t.shape)}: expected ({len(x_t)},), one timestep per image")
    for name, value in cond.items():
        if value.ndim not in (1, 2, 4) or len(value) != len(x_t):
            raise ValueError(
                f"conditioning {name} has shape {tuple(value.shape)}: expected 1, 2 or 4 dimensions, "
                f"the first of {len(x_t)}"
            )
    return {name: _scale(plan, name, value) for name, value in cond.items() if value.ndim == 4}


def _scale(plan: TilePlan, name: str, value: Tensor) -> int:
    height, width = value.shape[-2:]
    scale = max(plan.height // height, 1)
    if len(plan) == 1:
        return scale
    if (height * scale, width * scale) != (plan.height, plan.width):
        raise ValueError(
            f"conditioning {name} is {height}x{width}: expected the canvas' {plan.height}x{plan.width} "
            "divided by a whole number"
        )
    if any(position % scale for position in (*plan.tile, *plan.ys, *plan.xs)):
        raise ValueError(
            f"conditioning {name} is {scale} times smaller than the canvas, but tiles start at multiples of "
            f"{plan.align}: make the plan with align a multiple of {scale}"
        )
    return scale


def reflect_pad(image: Tensor, height: int, width: int) -> Tensor:
    """Continue images (..., h, w) to the right and below by repeated reflection, to (..., height, width).

    Works from 1x1 on, unlike torch's reflect padding, which asks for less padding than image. Crop [:h, :w] undoes it.
    """
    rows = torch.from_numpy(reflected(0, height, image.shape[-2])).to(image.device)
    columns = torch.from_numpy(reflected(0, width, image.shape[-1])).to(image.device)
    return image.index_select(-2, rows).index_select(-1, columns)
