"""Blending what was predicted for tiles: rows are complete as soon as no later tile reaches them."""

import torch
from torch import Tensor

from ....utils.errors import TesseraError
from ..prediction import Lazy, Prediction
from .plan import Tile, TilePlan


class RollingBlend:
    """Sums weighted predictions over the rows that tiles still reach. Weights add up to 1: nothing is divided."""

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
        shape = (1, like.x_start.shape[1], plan.tile[0], plan.width)
        self.sums = {name: torch.zeros(shape, dtype=dtype, device=device) for name in names}

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


def undeclared() -> Tensor:
    """The log-variance of a prediction without one."""
    raise TesseraError("a sampler that reads prediction.log_variance must declare needs_log_variance = True")
