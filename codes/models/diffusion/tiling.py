"""Tiled denoising: a Denoiser over a whole canvas in host memory of which only tiles visit the device.

The tiles' predictions are blended at every sampling step, after which the sampler takes one step for the whole canvas;
neighbouring tiles therefore see each other's work at the next step (the scheme of MultiDiffusion, arXiv 2302.08113).

B images, C channels, (H, W) canvas, (h, w) tile; all in pixels of the output.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...utils.errors import TesseraError
from .denoiser import Denoiser, Prediction
from .tile_plan import Tile, TilePlan, reflect_indices

UPSAMPLING_MARGIN = {"bilinear": 1, "bicubic": 2}  # low-resolution pixels that interpolation reads beyond a region
EPS_BAND = 64  # canvas rows whose eps is derived at a time, so that temporaries stay small


class Item(NamedTuple):
    """One unit of work: a tile of one image of the batch."""

    image: int
    tile: Tile


class TiledDenoiser:
    """Runs `denoiser` on the tiles of `plan` and blends what it predicts into one prediction for the canvas.

    x_start and the log-variance are blended; eps follows from x_t and the blended x_start, so that the two agree
    however the tiles clipped theirs. (The other way round would divide rounding errors by sqrt(alphas_cumprod), which
    is near 0 at the first steps.) A plan of one tile returns the denoiser's own prediction untouched.

    The state and the prediction lie where x_t lies; each batch of tiles is copied to `device`. `tile_batch_size` and
    `plan` come down when the device runs out of memory and stay down; the step under way is completed regardless.
    Runs without gradients.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plan: TilePlan,
        eps_from_x_start: Callable[[Tensor, Tensor, Tensor], Tensor],  # (x_t, t, x_start) -> eps, pixel by pixel
        *,
        tile_batch_size: int = 1,  # tiles, of all images together
        device: torch.device | str = "cpu",  # where the denoiser runs
        low_res_upsampling: str = "bilinear",  # how the network upsamples low_res: bilinear | bicubic
        smaller_plan: Callable[[TilePlan], TilePlan | None] | None = None,  # the next plan when one tile is too large
        on_event: Callable[[str], None] | None = None,  # told of every reduction, one line each
    ) -> None:
        if tile_batch_size < 1:
            raise ValueError(f"tile_batch_size {tile_batch_size}: use 1 or more")
        if low_res_upsampling not in UPSAMPLING_MARGIN:
            raise ValueError(f"low_res_upsampling {low_res_upsampling!r}: use one of {', '.join(UPSAMPLING_MARGIN)}")
        self.denoiser = denoiser
        self.plan = plan
        self.eps_from_x_start = eps_from_x_start
        self.tile_batch_size = tile_batch_size
        self.device = torch.device(device)
        self.low_res_upsampling = low_res_upsampling
        self.smaller_plan = smaller_plan
        self.on_event = on_event

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        """The prediction for the canvas x_t (B, C, H, W) at t (B,).

        Conditioning of 4 dimensions is spatial, at the canvas' size divided by a whole number, and is cropped to each
        tile; `low_res`, where smaller than the canvas, is upsampled to the tile from a crop with a margin, so that a
        tile sees at its edge what the upsampled whole shows there. Conditioning of 1 or 2 dimensions goes by sample.

        Raises ValueError for shapes that do not fit, TesseraError when the smallest possible tile is too large for
        the device.
        """
        self._check(x_t, t, cond)
        while True:
            prediction = self._whole(x_t, t, cond) if len(self.plan) == 1 else self._blended(x_t, t, cond)
            if prediction is not None:
                return prediction
            self._shrink_tile()
            self._check(x_t, t, cond)

    def _whole(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction | None:
        """One tile covers the canvas: images in batches, nothing cropped; None when one alone is too large."""
        parts: list[Prediction] = []
        first = 0
        while first < len(x_t):
            some = slice(first, first + self.tile_batch_size)
            prediction = self._run(partial(self._batch, x_t, t, cond, some))
            if prediction is not None:
                parts.append(Prediction(*(value.to(x_t.device) for value in prediction)))
                first += self.tile_batch_size
            elif not self._halve_batch(len(x_t[some])):
                return None
        return parts[0] if len(parts) == 1 else Prediction(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _blended(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction | None:
        """The sum of all weighted tiles, always in the plan's order; None when a single tile is too large."""
        blend = _Blend(self.plan, x_t)
        work = [Item(image, tile) for image in range(len(x_t)) for tile in self.plan.tiles]
        done = 0
        while done < len(work):
            items = work[done : done + self.tile_batch_size]
            prediction = self._run(partial(self._tiles, x_t, t, cond, items))
            if prediction is not None:
                blend.add(items, prediction)
                done += len(items)
            elif not self._halve_batch(len(items)):
                return None
        x_start = blend.x_start
        eps = torch.empty_like(x_start)
        for y in range(0, self.plan.height, EPS_BAND):
            rows = slice(y, y + EPS_BAND)
            eps[:, :, rows] = self.eps_from_x_start(x_t[:, :, rows], t, x_start[:, :, rows])
        return Prediction(x_start=x_start, eps=eps, log_variance=blend.log_variance)

    def _run(self, inputs: Callable[[], tuple[Tensor, Tensor, dict[str, Tensor]]]) -> Prediction | None:
        """The denoiser's prediction, or None when the device ran out of memory on it or on its inputs."""
        try:
            return self.denoiser(*inputs())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here, with the error and the frames it holds gone, can the tensors of the failed run be freed.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        return None

    def _halve_batch(self, tried: int) -> bool:
        """Halve the batch that failed; False when it was a single tile."""
        if tried == 1:
            return False
        self.tile_batch_size = tried // 2
        self._tell(f"{self.device} ran out of memory with {tried} tiles at once: going on with {self.tile_batch_size}")
        return True

    def _shrink_tile(self) -> None:
        height, width = self.plan.tile
        plan = self.smaller_plan(self.plan) if self.smaller_plan else None
        if plan is None:
            raise TesseraError(
                f"{self.device} ran out of memory with a single tile of {height}x{width} pixels, the smallest allowed: "
                "choose a smaller tile or another device, or close other programs that use this one"
            )
        self.plan = plan
        self.tile_batch_size = 1
        self._tell(
            f"{self.device} ran out of memory with a single tile of {height}x{width} pixels: "
            f"repeating this step with tiles of {plan.tile[0]}x{plan.tile[1]}"
        )

    def _tell(self, message: str) -> None:
        if self.on_event:
            self.on_event(message)

    def _batch(
        self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor], some: slice
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The denoiser's arguments for some whole images."""
        images = {name: value[some].to(self.device) for name, value in cond.items()}
        return x_t[some].to(self.device), t[some].to(self.device), images

    def _tiles(
        self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor], items: Sequence[Item]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The denoiser's arguments for some tiles."""
        images = [item.image for item in items]
        x = torch.stack([_crop(x_t, item, 1) for item in items])
        tile_cond = {
            name: self._crop_spatial(name, value, items) if value.ndim == 4 else value[images].to(self.device)
            for name, value in cond.items()
        }
        return x.to(self.device), t[images].to(self.device), tile_cond

    def _crop_spatial(self, name: str, value: Tensor, items: Sequence[Item]) -> Tensor:
        scale = self.plan.height // value.shape[-2]
        if name != "low_res" or scale == 1:
            return torch.stack([_crop(value, item, scale) for item in items]).to(self.device)
        return torch.cat([self._upsampled_crop(value, item, scale) for item in items])

    def _upsampled_crop(self, low_res: Tensor, item: Item, scale: int) -> Tensor:
        """(1, C, h, w): the tile's region of the upsampled whole, computed from a crop with a margin."""
        tile, margin = item.tile, UPSAMPLING_MARGIN[self.low_res_upsampling]
        top, left = max(tile.y0 // scale - margin, 0), max(tile.x0 // scale - margin, 0)
        bottom, right = tile.y1 // scale + margin, tile.x1 // scale + margin  # slicing stops at the image's edge
        crop = low_res[item.image : item.image + 1, :, top:bottom, left:right].to(self.device)
        size = (crop.shape[-2] * scale, crop.shape[-1] * scale)
        upsampled = F.interpolate(crop, size=size, mode=self.low_res_upsampling, align_corners=False)
        y, x = tile.y0 - top * scale, tile.x0 - left * scale
        return upsampled[:, :, y : y + tile.y1 - tile.y0, x : x + tile.x1 - tile.x0]

    def _check(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> None:
        canvas = (self.plan.height, self.plan.width)
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
            if value.ndim == 4 and len(self.plan) > 1:
                self._check_spatial(name, value)

    def _check_spatial(self, name: str, value: Tensor) -> None:
        height, width = value.shape[-2:]
        plan = self.plan
        scale = plan.height // height
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


class _Blend:
    """Sums weighted predictions over the canvas. The weights of a pixel add up to 1, so nothing is divided."""

    def __init__(self, plan: TilePlan, x_t: Tensor) -> None:
        self.x_start = torch.zeros_like(x_t)
        self._log_variance: Tensor | None = None
        self._rows = torch.from_numpy(plan.row_weights).to(x_t)
        self._columns = torch.from_numpy(plan.column_weights).to(x_t)

    @property
    def log_variance(self) -> Tensor:
        """(B, C, H, W), a view of one number per sample where the variance is fixed."""
        assert self._log_variance is not None
        return self._log_variance.expand_as(self.x_start)

    def add(self, items: Sequence[Item], prediction: Prediction) -> None:
        """Add the prediction (N, C, h, w) for N items."""
        fixed = prediction.log_variance.stride()[-2:] == (0, 0)  # expanded: a plane would cost memory for nothing
        x_start = prediction.x_start.to(self.x_start)
        log_variance = (prediction.log_variance[..., :1, :1] if fixed else prediction.log_variance).to(self.x_start)
        if self._log_variance is None:
            batch, channels, height, width = self.x_start.shape
            size = (1, 1) if fixed else (height, width)
            self._log_variance = self.x_start.new_zeros(batch, channels, *size)
        for index, (image, tile) in enumerate(items):
            weight = self._rows[tile.row][:, None] * self._columns[tile.column]
            _region(self.x_start[image], tile).add_(weight * x_start[index])
            if fixed:
                self._log_variance[image] = log_variance[index]
            else:
                _region(self._log_variance[image], tile).add_(weight * log_variance[index])


def reflect_pad(image: Tensor, height: int, width: int) -> Tensor:
    """Continue images (..., h, w) to the right and below by repeated reflection, to (..., height, width).

    Works from 1x1 on, unlike torch's reflect padding, which asks for less padding than image. Crop [:h, :w] undoes it.
    """
    rows = torch.from_numpy(reflect_indices(image.shape[-2], height)).to(image.device)
    columns = torch.from_numpy(reflect_indices(image.shape[-1], width)).to(image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: torch's own class, or a message of the CPU, MPS or CUDA libraries."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in message for sign in ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
    )


def _region(image: Tensor, tile: Tile) -> Tensor:
    return image[:, tile.y0 : tile.y1, tile.x0 : tile.x1]


def _crop(value: Tensor, item: Item, scale: int) -> Tensor:
    """(C, h / scale, w / scale): the tile's region of an image whose pixels are `scale` canvas pixels wide."""
    tile = item.tile
    return value[item.image, :, tile.y0 // scale : tile.y1 // scale, tile.x0 // scale : tile.x1 // scale]
