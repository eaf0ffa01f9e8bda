"""What is done to the predicted x_start of a whole image at every step, by numbers that only the whole image has.

Tiles alone would each move to their own contrast and be divided by their own quantile. So a step that needs this takes
two passes: the tiles' blended prediction is written down, band by band, while the numbers are gathered; then the state
is advanced from what was written.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ....images.enforced import Agreement, Correction


@dataclass(frozen=True)
class Adjustment:
    """Rescaling of guided images, then dynamic thresholding or clipping.

    rescale in [0, 1] moves the standard deviation of x_start back to that of the prediction without guidance by this
    much (Lin et al. 2023, section 3.4, on x_start). quantile: x_start is clipped to [-s, s] and divided by s,
    s = max(1, this quantile of |x_start|) (Saharia et al. 2022, section 2.3); the quantile is the element below the
    exact position, as in PatchDiffusion. Without one, `clip` limits x_start to [-1, 1]. `agrees`: what
    differs from the input in the low frequencies is corrected (`images.enforced`); not beside the others, which move
    all frequencies.
    Raises ValueError for what lies outside.
    """

    rescale: float = 0.0
    quantile: float | None = None
    clip: bool = False
    agrees: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"guidance rescale must lie in [0, 1], got {self.rescale}")
        if self.quantile is not None and not 0.0 < self.quantile <= 1.0:
            raise ValueError(f"the quantile of dynamic thresholding must lie in (0, 1], got {self.quantile}")

    @property
    def changes_something(self) -> bool:
        """Whether numbers of the whole image are needed at all."""
        return self.rescale > 0.0 or self.quantile is not None or self.agrees


class Gathered:
    """The numbers of one image of `values` elements (channels times pixels), and x_start adjusted by them.

    `agreement`: what it must agree with, where the adjustment says that it must; `width`: that of its canvas.
    """

    def __init__(self, adjustment: Adjustment, values: int, agreement: Agreement | None = None, width: int = 0) -> None:
        self.adjustment = adjustment
        self._agreement = agreement if adjustment.agrees else None
        self._cells = self._agreement.cells() if self._agreement else None
        self._correction: Correction | None = None
        self._width = width
        self._guided, self._unguided = _Deviation(), _Deviation()
        self._rank = values - math.floor((adjustment.quantile or 1.0) * (values - 1))
        self._largest = torch.empty(0)

    def add(self, x_start: Tensor, unguided: Tensor | None, y0: int = 0) -> None:
        """Some rows of the prediction (1, C, n, W), from y0 on; without guidance `unguided` is None."""
        if self._cells is not None:
            self._cells.add(y0, self._clipped(x_start)[0].cpu())
        if self.adjustment.rescale:
            assert unguided is not None, "guidance keeps the prediction that it started from"
            self._guided.add(x_start)
            self._unguided.add(unguided)
        if self.adjustment.quantile is not None:
            both = torch.cat([self._largest.to(x_start), x_start.abs().flatten()])
            self._largest = both.topk(min(self._rank, len(both))).values

    def adjusted(self, x_start: Tensor, y0: int = 0) -> Tensor:
        """Some rows of x_start, from y0 on, once all were added."""
        if self._agreement is not None and self._cells is not None:
            self._correction = self._correction or self._agreement.correction(self._cells, self._width)
            x_start = self._clipped(x_start) + self._correction.rows(y0, y0 + x_start.shape[-2]).to(x_start.device)
        scale = 1.0
        if self.adjustment.rescale:
            ratio = self._unguided.value / max(self._guided.value, 1e-8)
            scale = 1.0 - self.adjustment.rescale + self.adjustment.rescale * ratio
        x_start = x_start * scale
        if self.adjustment.quantile is not None:
            limit = max(scale * float(self._largest[-1]), 1.0)
            return x_start.clamp(-limit, limit) / limit
        return self._clipped(x_start)

    def _clipped(self, x_start: Tensor) -> Tensor:
        return x_start.clamp(-1.0, 1.0) if self.adjustment.clip else x_start


class _Deviation:
    """The standard deviation of values that come in parts (Chan et al. 1979), in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = 0.0

    def add(self, values: Tensor) -> None:
        count = values.numel()
        part = (values.cpu() if values.device.type == "mps" else values).double()  # MPS has no float64
        mean = float(part.mean())
        gap, total = mean - self.mean, self.count + count
        self.squares += float((part - mean).square().sum()) + gap**2 * self.count * count / total
        self.mean += gap * count / total
        self.count = total

    @property
    def value(self) -> float:
        return math.sqrt(self.squares / max(self.count - 1, 1))
