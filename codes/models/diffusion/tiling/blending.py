"""Blending what was predicted for tiles: rows are complete as soon as no later tile reaches them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ....utils.errors import TesseraError
from ..prediction import Lazy, Prediction
from .plan import Tile, TilePlan

PART_PIXELS = 2**20  # of rows that a sampler advances at once; a row of tiles of a wide image has several


class RollingBlend:
    """Sums weighted predictions over the rows that tiles still reach. Weights add up to 1: nothing is divided.

    Where the height wraps, the rows at the top that the last tiles reach once more wait in `head` until the end.
    """

    def __init__(self, plan: TilePlan, like: Prediction, needs_log_variance: bool) -> None:
        self.plan = plan
        dtype, device = like.x_start.dtype, like.x_start.device
        self._rows = torch.from_numpy(plan.row_weights).to(dtype).to(device, non_blocking=True)
        self._columns = torch.from_numpy(plan.column_weights).to(dtype).to(device, non_blocking=True)
        names = ["x_start"] if like.unguided is None else ["x_start", "unguided"]
        self.needs_log_variance = needs_log_variance
        self.fixed: Tensor | None = None  # one number per channel, expanded: a plane would cost memory for nothing
        if needs_log_variance and like.log_variance.stride()[-2:] == (0, 0):
            self.fixed = like.log_variance[..., :1, :1]
        elif needs_log_variance:
            names.append("log_variance")
        self.waiting = min(max(plan.ys[-1] + plan.tile[0] - plan.height, 0), plan.height)  # rows of `head`
        self.sums, self.head = (
            {
                name: torch.zeros((1, like.x_start.shape[1], rows, plan.width), dtype=dtype, device=device)
                for name in names
            }
            for rows in (plan.tile[0], self.waiting)
        )

    def add(self, tile: Tile, prediction: Prediction) -> None:
        """Add a tile (1, C, h, w) of the row of tiles under way."""
        weight = self._rows[tile.row][:, None] * self._columns[tile.column]
        for name, total in self.sums.items():
            weighted = weight * getattr(prediction, name)
            if tile.x1 <= self.plan.width:
                total[..., tile.x0 : tile.x1].add_(weighted)
            else:
                total.index_add_(3, _around(tile.x0, tile.x1, self.plan.width, total), weighted)
        if self.fixed is not None:
            self.fixed = prediction.log_variance[..., :1, :1]

    def finish_row(self, row: int) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
        """The rows [y0, y1) that no later tile reaches, with their sums, in parts (`parts_of`); make room for the next.

        After the last row of tiles those that waited, too. To be read to its end.
        """
        ys, width = self.plan.ys, self.plan.width
        last = row + 1 == len(ys)
        y0, y1 = ys[row], self.plan.height if last else ys[row + 1]
        held = min(max(self.waiting - y0, 0), y1 - y0)
        for name, total in self.sums.items() if held else ():
            self.head[name][:, :, y0 : y0 + held] += total[:, :, :held]
        for top, bottom in parts_of(y0 + held, y1, width):
            yield top, bottom, {name: total[:, :, top - y0 : bottom - y0].clone() for name, total in self.sums.items()}
        for total in self.sums.values():
            _move_up(total, y1 - y0)
        if last and self.waiting:
            beyond = ys[-1] + self.plan.tile[0] - self.plan.height  # rows of tiles that go on at the top
            for name, total in self.sums.items():
                self.head[name].index_add_(2, _around(0, beyond, self.plan.height, total), total[:, :, :beyond])
            for top, bottom in parts_of(0, self.waiting, width):
                yield top, bottom, {name: values[:, :, top:bottom] for name, values in self.head.items()}

    def log_variance(self, sums: Mapping[str, Tensor]) -> Lazy:
        """That of rows with these sums."""
        if self.fixed is not None:
            return self.fixed.expand_as(sums["x_start"])
        return sums["log_variance"] if self.needs_log_variance else undeclared


def parts_of(y0: int, y1: int, width: int) -> Iterator[tuple[int, int]]:
    """[y0, y1) in parts of PART_PIXELS at most, or single rows: what is computed takes several times their memory."""
    count = max(PART_PIXELS // width, 1)
    for start in range(y0, y1, count):
        yield start, min(start + count, y1)


def _around(start: int, stop: int, length: int, like: Tensor) -> Tensor:
    return torch.arange(start, stop, device=like.device) % length


def _move_up(buffer: Tensor, count: int) -> None:
    """Move all rows but the first `count` to the top; zeros follow them."""
    kept = buffer[:, :, count:].clone()
    buffer[:, :, : kept.shape[2]] = kept
    buffer[:, :, kept.shape[2] :] = 0


def undeclared() -> Tensor:
    """The log-variance of a prediction without one."""
    raise TesseraError("a sampler that reads prediction.log_variance must declare needs_log_variance = True")
