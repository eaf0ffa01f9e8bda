"""Running a denoiser over the tiles of images that may be far larger than the device's memory, or than any memory.

Tiles of several images share batches. An image's tiles come row by row; as soon as no later tile touches some rows of
it, their prediction is given out as a band and forgotten, so that only one row of tiles is held for each image.

B images, C channels, (H, W) canvas, (h, w) tile; all in pixels of the output.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....images.canvas import Canvas
from ....utils.errors import TesseraError
from ..denoiser import Denoiser
from ..prediction import Lazy, Prediction
from .plan import Tile, TilePlan, reflect_indices

UPSAMPLING_MARGIN = {"bilinear": 1, "bicubic": 2}  # low-resolution pixels that interpolation reads beyond a region


@dataclass(frozen=True, eq=False)
class View:
    """One image as the runner sees it at one step.

    `x_t`: its state, of which the first `channels` are read. `cond` holds (1, ...) tensors; those of 4 dimensions are
    spatial, with pixels `scales[name]` canvas pixels wide, and are continued by reflection where the canvas is larger.
    `shift` moves the inner tiles of the grid (see `TilePlan.shifted`).
    """

    x_t: Canvas
    channels: int
    t: int
    cond: Mapping[str, Tensor]
    scales: Mapping[str, int]
    plan: TilePlan
    shift: tuple[int, int] = (0, 0)


class Band(NamedTuple):
    """The prediction for the rows [y0, y1) of a view, each (1, C, y1 - y0, W), in host memory.

    Without a log-variance where the runner does not blend it: whoever reads it is told.
    """

    view: int
    y0: int
    y1: int
    prediction: Prediction


@dataclass(eq=False)
class _Work:
    """A view under way: its tiles for this step, the rows of x_t last read, and the rows being blended."""

    number: int
    view: View
    plan: TilePlan
    rows: tuple[int, Tensor] | None = None
    blend: "_RollingBlend | None" = None

    @property
    def whole(self) -> bool:
        """One tile covers the canvas: its prediction is passed on untouched."""
        return len(self.plan) == 1

    def region(self, tile: Tile) -> Tensor:
        """(C, h, w) of x_t. The rows of a row of tiles are read once: a canvas on disk copies them."""
        if self.rows is None or self.rows[0] != tile.y0:
            self.rows = (tile.y0, self.view.x_t.rows(tile.y0, tile.y1)[: self.view.channels])
        return self.rows[1][:, :, tile.x0 : tile.x1]


class Item(NamedTuple):
    """One unit of work: a tile of one view."""

    work: _Work
    tile: Tile


@dataclass(eq=False)
class TileRunner:
    """Runs `denoiser` on batches of tiles and blends what it predicts.

    x_start and, with `needs_log_variance`, the log-variance are blended; eps follows from x_t and the blended x_start,
    so that the two agree however the tiles clipped theirs. (The other way round would divide rounding errors by
    sqrt(alphas_cumprod), which is near 0 at the first steps.) A plan of one tile gives the denoiser's own
    prediction untouched.

    `tile_batch_size` and the tiles come down when the device runs out of memory and stay down. Without gradients.
    """

    denoiser: Denoiser
    eps_from_x_start: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, x_start) -> eps, pixel by pixel
    tile_batch_size: int = 1  # tiles, of all images together
    needs_log_variance: bool = True  # whether anybody reads it: blending it costs as much as x_start
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where the denoiser runs
    low_res_upsampling: str = "bilinear"  # how the network upsamples low_res: bilinear | bicubic
    smaller_plan: Callable[[TilePlan], TilePlan | None] | None = None  # the next plan when one tile is too large
    on_event: Callable[[str], None] | None = None  # told of every reduction, one line each
    on_tiles: Callable[[int], None] | None = None  # told how many more tiles are done
    too_large: int | None = None  # pixels of the smallest tile that did not fit

    def __post_init__(self) -> None:
        if self.tile_batch_size < 1:
            raise ValueError(f"tile_batch_size {self.tile_batch_size}: use 1 or more")
        if self.low_res_upsampling not in UPSAMPLING_MARGIN:
            known = ", ".join(UPSAMPLING_MARGIN)
            raise ValueError(f"low_res_upsampling {self.low_res_upsampling!r}: use one of {known}")

    def fitted(self, plan: TilePlan) -> TilePlan:
        """The plan with tiles that have not been found too large. Raises TesseraError when there is none."""
        while self.too_large is not None and plan.tile[0] * plan.tile[1] >= self.too_large:
            smaller = self.smaller_plan(plan) if self.smaller_plan else None
            if smaller is None:
                height, width = plan.tile
                raise TesseraError(
                    f"{self.device} ran out of memory with a single tile of {height}x{width} pixels, the smallest "
                    "allowed: choose a smaller tile or another device, or close other programs that use this one"
                )
            plan = smaller
        return plan

    @torch.no_grad()
    def bands(self, views: Sequence[View]) -> Iterator[Band]:
        """The predictions for all views, each from top to bottom; views with equal tiles share batches.

        When a tile turns out too large for the device, the views that had some in hand begin again from the top with
        smaller ones; what was given out before is then to be replaced.
        """
        waiting = [self._work(number, view) for number, view in enumerate(views)]
        while waiting:
            waiting.sort(key=lambda work: (work.plan.tile, work.whole))
            _, group = next(groupby(waiting, key=_batch_key))
            some = list(group)
            waiting = [work for work in waiting if work not in some]
            waiting += yield from self._run_group(some)

    def _work(self, number: int, view: View) -> _Work:
        return _Work(number, view, self.fitted(view.plan).shifted(*view.shift))

    def _run_group(self, group: Sequence[_Work]) -> Generator[Band, None, list[_Work]]:
        """The bands of views with equal tiles; returns the views to be done again with smaller tiles."""
        items = [Item(work, tile) for work in group for tile in work.plan.tiles]
        done = 0
        while done < len(items):
            some = items[done : done + self.tile_batch_size]
            prediction = self._run(some)
            if prediction is not None:
                done += len(some)
                if self.on_tiles:
                    self.on_tiles(len(some))
                yield from self._blended(some, prediction)
                del prediction  # or it would lie beside the next batch while that is computed
            elif len(some) > 1:
                self.tile_batch_size = len(some) // 2
                self._tell(f"with {len(some)} tiles at once: going on with {self.tile_batch_size}")
            else:
                unfinished = dict.fromkeys(item.work for item in items[done:])
                return [self._restarted(work) for work in unfinished]
        return []

    def _restarted(self, work: _Work) -> _Work:
        height, width = work.plan.tile
        known = self.too_large is not None and height * width >= self.too_large
        self.too_large = height * width if not known else self.too_large
        again = self._work(work.number, work.view)
        if not known:
            size = f"{again.plan.tile[0]}x{again.plan.tile[1]}"
            self._tell(f"with a single tile of {height}x{width} pixels: repeating this step with tiles of {size}")
        return again

    def _run(self, items: Sequence[Item]) -> Prediction | None:
        """The denoiser's prediction, or None when the device ran out of memory on it or on its inputs."""
        try:
            return self.denoiser(*self._inputs(items))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here, with the error and the frames it holds gone, can the tensors of the failed run be freed.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        return None

    def _tell(self, message: str) -> None:
        if self.on_event:
            self.on_event(f"{self.device} ran out of memory {message}")

    def _inputs(self, items: Sequence[Item]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x = torch.stack([item.work.region(item.tile) for item in items]).to(self.device)
        t = torch.tensor([item.work.view.t for item in items], dtype=torch.int64, device=self.device)
        names = items[0].work.view.cond
        return x, t, {name: torch.cat([self._cond(name, item) for item in items]) for name in names}

    def _cond(self, name: str, item: Item) -> Tensor:
        view = item.work.view
        value = view.cond[name]
        if value.ndim < 4:
            return value.to(self.device)
        mode = self.low_res_upsampling if name == "low_res" else "bilinear"
        upsample = name in ("low_res", "corruption_factor") and not item.work.whole and view.scales[name] > 1
        if upsample:
            return upsampled_region(value, item.tile, item.work.plan, view.scales[name], mode, self.device)
        return region_of(value, item.tile, view.scales[name]).to(self.device)

    def _blended(self, items: Sequence[Item], tiles: Prediction) -> Iterator[Band]:
        """Add the prediction (N, C, h, w) for N tiles, in the plan's order; the bands that are complete with it."""
        for index, (work, tile) in enumerate(items):
            own = tiles.each(partial(_row_on_host, index))
            if work.whole:
                variance = partial(_log_variance, own) if self.needs_log_variance else undeclared
                whole = Prediction(own.x_start, partial(_eps, own), variance, own.unguided)
                yield Band(work.number, 0, work.plan.height, whole)
                continue
            if work.blend is None:
                work.blend = _RollingBlend(work.plan, own, self.needs_log_variance)
            work.blend.add(tile, own)
            if tile.column == len(work.plan.xs) - 1:
                y0, y1, blended, log_variance = work.blend.finish_row(tile.row)
                x_t = work.view.x_t.rows(y0, y1)[None, : work.view.channels]
                eps = partial(self.eps_from_x_start, x_t, torch.tensor([work.view.t]), blended["x_start"])
                prediction = Prediction(blended["x_start"], eps, log_variance, blended.get("unguided"))
                yield Band(work.number, y0, y1, prediction)


class _RollingBlend:
    """Sums weighted predictions over the rows that tiles still reach. Weights add up to 1: nothing is divided."""

    def __init__(self, plan: TilePlan, like: Prediction, needs_log_variance: bool) -> None:
        self.plan = plan
        self._rows = torch.from_numpy(plan.row_weights).to(like.x_start.dtype)
        self._columns = torch.from_numpy(plan.column_weights).to(like.x_start.dtype)
        names = ["x_start"] if like.unguided is None else ["x_start", "unguided"]
        self.needs_log_variance = needs_log_variance
        self.fixed: Tensor | None = None  # one number per channel, expanded: a plane would cost memory for nothing
        if needs_log_variance and like.log_variance.stride()[-2:] == (0, 0):
            self.fixed = like.log_variance[..., :1, :1]
        elif needs_log_variance:
            names.append("log_variance")
        shape = (1, like.x_start.shape[1], plan.tile[0], plan.width)
        self.sums = {name: torch.zeros(shape, dtype=like.x_start.dtype) for name in names}

    def add(self, tile: Tile, prediction: Prediction) -> None:
        """Add a tile (1, C, h, w) of the row of tiles under way."""
        weight = self._rows[tile.row][:, None] * self._columns[tile.column]
        for name, total in self.sums.items():
            total[..., tile.x0 : tile.x1].add_(weight * getattr(prediction, name))
        if self.fixed is not None:
            self.fixed = prediction.log_variance[..., :1, :1]

    def finish_row(self, row: int) -> tuple[int, int, dict[str, Tensor], Lazy]:
        """The rows [y0, y1) that no later tile reaches, with their sums and log-variance; make room for the next."""
        ys, height = self.plan.ys, self.plan.tile[0]
        y0, y1 = ys[row], ys[row + 1] if row + 1 < len(ys) else self.plan.height
        done = {name: _taken(total, y1 - y0, height) for name, total in self.sums.items()}
        if self.fixed is not None:
            return y0, y1, done, self.fixed.expand_as(done["x_start"])
        return y0, y1, done, done["log_variance"] if self.needs_log_variance else undeclared


def _taken(buffer: Tensor, count: int, height: int) -> Tensor:
    """The first `count` rows; the others move up, and zeros follow them."""
    done, kept = buffer[:, :, :count].clone(), buffer[:, :, count:].clone()
    buffer[:, :, : height - count] = kept
    buffer[:, :, height - count :] = 0
    return done


def _row_on_host(index: int, value: Tensor) -> Tensor:
    return value[index : index + 1].to("cpu")


def _eps(prediction: Prediction) -> Tensor:
    return prediction.eps


def _log_variance(prediction: Prediction) -> Tensor:
    return prediction.log_variance


def undeclared() -> Tensor:
    """The log-variance of a prediction without one."""
    raise TesseraError("a sampler that reads prediction.log_variance must declare needs_log_variance = True")


def region_of(value: Tensor, tile: Tile, scale: int) -> Tensor:
    """(1, C, h / scale, w / scale): the tile's region of an image (1, C, H', W') whose pixels are `scale` wide."""
    y0, y1, x0, x1 = tile.y0 // scale, -(-tile.y1 // scale), tile.x0 // scale, -(-tile.x1 // scale)
    return _window(value, y0, y1, x0, x1)


def upsampled_region(value: Tensor, tile: Tile, plan: TilePlan, scale: int, mode: str, device: torch.device) -> Tensor:
    """(1, C, h, w): the tile's region of the upsampled whole, computed from a crop with a margin.

    So a tile sees at its edge what the upsampled whole shows there. The whole ends where the canvas does.
    """
    margin = UPSAMPLING_MARGIN[mode]
    top, left = max(tile.y0 // scale - margin, 0), max(tile.x0 // scale - margin, 0)
    bottom = min(tile.y1 // scale + margin, plan.height // scale)
    right = min(tile.x1 // scale + margin, plan.width // scale)
    crop = _window(value, top, bottom, left, right).to(device)
    size = (crop.shape[-2] * scale, crop.shape[-1] * scale)
    upsampled = F.interpolate(crop, size=size, mode=mode, align_corners=False)
    y, x = tile.y0 - top * scale, tile.x0 - left * scale
    return upsampled[:, :, y : y + tile.y1 - tile.y0, x : x + tile.x1 - tile.x0]


def _window(value: Tensor, y0: int, y1: int, x0: int, x1: int) -> Tensor:
    """[y0, y1) x [x0, x1) of an image (1, C, H, W), continued to the right and below by repeated reflection."""
    height, width = value.shape[-2:]
    if y1 <= height and x1 <= width:
        return value[..., y0:y1, x0:x1]
    rows = torch.from_numpy(reflect_indices(height, max(y1, height))[y0:y1])
    columns = torch.from_numpy(reflect_indices(width, max(x1, width))[x0:x1])
    return value.index_select(-2, rows.to(value.device)).index_select(-1, columns.to(value.device))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: torch's own class, or a message of the CPU, MPS or CUDA libraries."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        # cuDNN finds no engine where none of them gets its workspace.
        sign in message
        for sign in ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED", "unable to find an engine")
    )


def _batch_key(work: _Work) -> tuple[object, ...]:
    """Views whose tiles can stand in one batch: equal sizes, and conditioning of equal shapes where it stays small."""
    spatial = [(name, work.view.scales.get(name)) for name, value in work.view.cond.items() if value.ndim == 4]
    return work.plan.tile, work.whole, tuple(work.view.cond), tuple(spatial)
