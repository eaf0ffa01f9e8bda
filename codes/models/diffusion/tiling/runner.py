"""Running a denoiser over the tiles of images that may be far larger than the device's memory, or than any memory.

Tiles of several images share batches. An image's tiles come row by row; as soon as no later tile touches some rows of
it, their prediction is given out as a band and forgotten, so that only one row of tiles is held for each image. All of
it happens on the runner's device, wherever the canvas lies.

B images, C channels, (H, W) canvas, (h, w) tile; all in pixels of the output.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ....images.canvas import Canvas
from ....images.canvas_stream import RowReader
from ....utils.errors import TesseraError
from ..denoiser import Denoiser
from ..prediction import Prediction, not_finite
from .blending import RollingBlend, undeclared
from .conditioning import (
    UPSAMPLED,
    UPSAMPLING_MARGIN,
    Spatial,
    columns_around,
    is_spatial,
    region_of,
    rows_around,
    upsampled_region,
)
from .memory import attempted
from .plan import Tile, TilePlan


@dataclass(frozen=True, eq=False)
class View:
    """One image as the runner sees it at one step.

    `x_t`: its state, of which the first `channels` are read. `cond` holds (1, ...) tensors and canvases; canvases and
    tensors of 4 dimensions are spatial, with pixels `scales[name]` canvas pixels wide, and are continued by reflection
    where the canvas is larger. `shift` moves the inner tiles of the grid (see `TilePlan.shifted`).
    """

    x_t: Canvas
    channels: int
    t: int
    cond: Mapping[str, Spatial]
    scales: Mapping[str, int]
    plan: TilePlan
    shift: tuple[int, int] = (0, 0)


class Band(NamedTuple):
    """The prediction for the rows [y0, y1) of a view, each (1, C, y1 - y0, W), on the runner's device.

    `state`: the rows of x_t that it was made from, (1, channels of the canvas, y1 - y0, W). Without a log-variance
    where the runner does not blend it: whoever reads it is told. `first`: of the view, perhaps anew.
    """

    view: int
    y0: int
    y1: int
    prediction: Prediction
    state: Tensor
    first: bool = False


class _Held(NamedTuple):
    """A tile that is predicted but not blended yet."""

    tile: Tile
    prediction: Prediction
    finite: Tensor | None


class _Seen(NamedTuple):
    """What a row of tiles sees, on the device: rows of the canvas (channels, h, W), and spatial conditioning."""

    rows: Tensor
    spatial: dict[str, Tensor]


@dataclass(eq=False)
class _Work:
    """A view under way: its tiles for this step, what was read for rows of them, and the rows being blended."""

    number: int
    view: View
    plan: TilePlan
    device: torch.device
    upsampling: str
    seen: dict[int, _Seen] = field(default_factory=dict)  # by its first row
    held: list[_Held] = field(default_factory=list)
    blend: RollingBlend | None = None
    begun: bool = False  # a band of it was given out

    def __post_init__(self) -> None:
        spans = [(y, y + self.plan.tile[0]) for y in self.plan.ys]
        self.reader = RowReader(self.view.x_t, self.device, [span for span in spans if span[1] <= self.plan.height])
        self.t = torch.full((1,), self.view.t, dtype=torch.int64, device=self.device)
        cond = self.view.cond
        self.vectors = {
            name: value.to(self.device, non_blocking=True)
            for name, value in cond.items()
            if isinstance(value, Tensor) and not is_spatial(value)
        }

    @property
    def whole(self) -> bool:
        """One tile covers the canvas: its prediction is passed on untouched."""
        return self.plan.whole

    def row(self, tile: Tile) -> _Seen:
        """What the row of tiles sees, read once: a canvas on disk copies its rows, and low_res is upsampled."""
        if tile.y0 not in self.seen:
            while len(self.seen) > 1:  # a batch may end in one row and begin in the one before
                del self.seen[next(iter(self.seen))]
            across = tile._replace(x0=0, x1=self.plan.width)
            spatial = {name: self._band(name, across) for name, v in self.view.cond.items() if is_spatial(v)}
            inside = tile.y1 <= self.plan.height
            rows = self.reader.rows(tile.y0, tile.y1) if inside else self.rows(tile.y0, tile.y1)
            self.seen[tile.y0] = _Seen(rows, spatial)
        return self.seen[tile.y0]

    def region(self, tile: Tile) -> Tensor:
        """(C, h, w) of x_t."""
        return columns_around(self.row(tile).rows[: self.view.channels], tile.x0, tile.x1)

    def rows(self, y0: int, y1: int) -> Tensor:
        """(channels of the canvas, y1 - y0, W): rows that are no row of tiles, or that go around the end."""
        return rows_around(self.view.x_t, y0, y1).to(self.device)

    def cond(self, name: str, tile: Tile) -> Tensor:
        """(1, ...): what a tile is told."""
        if name in self.vectors:
            return self.vectors[name]
        scale = 1 if self._upsamples(name) else self.view.scales[name]
        return columns_around(self.row(tile).spatial[name], tile.x0 // scale, -(-tile.x1 // scale))

    def _upsamples(self, name: str) -> bool:
        return name in UPSAMPLED and not self.whole and self.view.scales[name] > 1

    def _band(self, name: str, band: Tile) -> Tensor:
        value, scale = self.view.cond[name], self.view.scales[name]
        if not self._upsamples(name):
            return region_of(value, band, scale, self.plan.wrap).to(self.device, non_blocking=True)
        mode = self.upsampling if name == "low_res" else "bilinear"
        return upsampled_region(value, band, self.plan, scale, mode, self.device)


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

    With an `exact` denoiser, tiles whose prediction is not finite are predicted again by it; where that does not help,
    or with `checks` alone, it is an error: the image would be black. Whether they are finite is read on a CPU after
    each batch, on other devices once a row of tiles, since each time the host waits for the device.

    `tile_batch_size` and the tiles come down when the device runs out of memory and stay down. Without gradients.
    """

    denoiser: Denoiser
    eps_from_x_start: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, x_start) -> eps, pixel by pixel
    tile_batch_size: int = 1  # tiles, of all images together
    needs_log_variance: bool = True  # whether anybody reads it: blending it costs as much as x_start
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where the denoiser runs
    low_res_upsampling: str = field(kw_only=True)  # how the network upsamples low_res: bilinear | bicubic
    smaller_plan: Callable[[TilePlan], TilePlan | None] | None = None  # the next plan when one tile is too large
    on_event: Callable[[str], None] | None = None  # told of every reduction, one line each
    on_tiles: Callable[[int], None] | None = None  # told how many more tiles are done
    exact: Denoiser | None = None  # the same in float32
    checks: bool = False  # whether predictions must be finite
    pads: bool = False  # fill up the last batch, so that all have one shape
    too_large: int | None = None  # pixels of the smallest tile that did not fit
    repeats: int = 0  # tiles that were predicted again
    _known_times: dict[tuple[int, ...], Tensor] = field(default_factory=dict, init=False)

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

        Of a canvas whose height wraps, the rows at the top that the last tiles reach come at the end.
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
        plan = self.fitted(view.plan).shifted(*view.shift)
        return _Work(number, view, plan, self.device, self.low_res_upsampling)

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
        return attempted(lambda: self.denoiser(*self._inputs(items, self.pads)), self.device)

    def spare(self, plans: Sequence[TilePlan]) -> None:
        """Take less memory for images of these plans, as memory ran out beside the denoiser: half of the batch, or
        smaller tiles. Raises TesseraError where the tiles are the smallest."""
        if self.tile_batch_size > 1:
            self.tile_batch_size //= 2
            self._tell(f"blending: repeating this step with {self.tile_batch_size} tiles at once")
            return
        height, width = max((self.fitted(plan).tile for plan in plans), key=math.prod)
        self.too_large = height * width
        smaller = [self.fitted(plan) for plan in plans]
        self._tell(
            f"blending tiles of {height}x{width} pixels: repeating this step with tiles of "
            f"{smaller[0].tile[0]}x{smaller[0].tile[1]}"
        )

    def _tell(self, message: str) -> None:
        if self.on_event:
            self.on_event(f"{self.device} ran out of memory {message}")

    def _inputs(self, items: Sequence[Item], pads: bool = False) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        regions, cond = [], []
        for work, tile in items:
            regions.append(work.region(tile))
            cond.append({name: work.cond(name, tile) for name in work.view.cond})
        times = [item.work.view.t for item in items]
        if pads:
            missing = self.tile_batch_size - len(items)
            regions += regions[-1:] * missing
            cond += cond[-1:] * missing
            times += times[-1:] * missing
        return (
            torch.stack(regions),
            self._times(tuple(times)),
            {name: torch.cat([told[name] for told in cond]) for name in cond[0]},
        )

    def _times(self, times: tuple[int, ...]) -> Tensor:
        """int64 (N,) on the device; the same tensor for all batches of a step, which others may know it by."""
        if times not in self._known_times:
            if len(self._known_times) > 1:  # a whole batch and the last one
                self._known_times.clear()
            parts = [torch.full((len([*same]),), t, device=self.device) for t, same in groupby(times)]
            self._known_times[times] = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self._known_times[times]

    def _blended(self, items: Sequence[Item], tiles: Prediction) -> Iterator[Band]:
        """Add the prediction (N, C, h, w) for N tiles, in the plan's order; the bands that are complete with it."""
        finite = self._finite(tiles)
        for index, (work, tile) in enumerate(items):
            own = tiles.each(partial(_row, index))
            work.held.append(_Held(tile, own, None if finite is None else finite[index]))
            if tile.column == len(work.plan.xs) - 1:
                yield from self._bands(work, tile, self._settled(work))
            elif self.device.type == "cpu":  # nothing is gained by waiting, and a batch's memory by not waiting
                self._settled(work)

    def _bands(self, work: _Work, tile: Tile, last: Prediction) -> Iterator[Band]:
        """The rows that are complete with `last`, the prediction for the last of a row of tiles."""
        rows = work.row(tile).rows
        if work.whole:
            variance = partial(_log_variance, last) if self.needs_log_variance else undeclared
            whole = Prediction(last.x_start, partial(_eps, last), variance, last.unguided)
            yield Band(work.number, 0, work.plan.height, whole, rows[None], first=True)
            return
        assert work.blend is not None, "settled just now"
        for y0, y1, sums in work.blend.finish_row(tile.row):
            inside = y0 >= tile.y0  # else rows at the top that waited
            state = rows[None, :, y0 - tile.y0 : y1 - tile.y0] if inside else work.rows(y0, y1)[None]
            eps = partial(self.eps_from_x_start, state[:, : work.view.channels], work.t, sums["x_start"])
            prediction = Prediction(sums["x_start"], eps, work.blend.log_variance(sums), sums.get("unguided"))
            yield Band(work.number, y0, y1, prediction, state, first=not work.begun)
            work.begun = True
        del work.seen[tile.y0]

    def _settled(self, work: _Work) -> Prediction:
        """Look whether what is held is finite, and blend it; the last of it."""
        flags = [held.finite for held in work.held if held.finite is not None]
        good = torch.stack(flags).tolist() if flags else [True] * len(work.held)
        for held, is_good in zip(work.held, good, strict=True):
            prediction = held.prediction if is_good else self._again(work, held.tile)
            if work.blend is None and not work.whole:
                work.blend = RollingBlend(work.plan, prediction, self.needs_log_variance)
            if work.blend is not None:
                work.blend.add(held.tile, prediction)
        work.held.clear()
        return prediction

    def _finite(self, prediction: Prediction) -> Tensor | None:
        """(N,): whether all numbers of a tile are finite; on the device, so that nobody waits for it."""
        if not self.checks:
            return None
        read = [prediction.x_start, *([prediction.log_variance] if self.needs_log_variance else [])]
        flags = [value.abs().amax(dim=(1, 2, 3)).isfinite() for value in read]
        return flags[0] if len(flags) == 1 else flags[0] & flags[1]

    def _again(self, work: _Work, tile: Tile) -> Prediction:
        """The prediction in float32 for a tile whose prediction is not finite. Raises TesseraError."""
        if self.exact is not None:
            self.repeats += 1
            if self.repeats == 1 and self.on_event:
                self.on_event("the network overflowed in this precision: such tiles are computed again in float32")
            prediction = self.exact(*self._inputs([Item(work, tile)]))
            finite = self._finite(prediction)
            if finite is not None and bool(finite.all()):
                return prediction
        raise not_finite(work.view.t)


def _row(index: int, value: Tensor) -> Tensor:
    return value[index : index + 1]


def _eps(prediction: Prediction) -> Tensor:
    return prediction.eps


def _log_variance(prediction: Prediction) -> Tensor:
    return prediction.log_variance


def _batch_key(work: _Work) -> tuple[object, ...]:
    """Views whose tiles can stand in one batch: equal sizes, and conditioning of equal shapes where it stays small."""
    spatial = [(name, work.view.scales.get(name)) for name, value in work.view.cond.items() if is_spatial(value)]
    return work.plan.tile, work.whole, tuple(work.view.cond), tuple(spatial)
