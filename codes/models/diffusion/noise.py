"""Gaussian noise keyed by coordinates: what falls on a pixel depends on (seed, step, y, x) and on nothing else.

So a picture does not depend on how it was cut into tiles or bands, on padding to the right and below, on the batch it
was in, or on where an interrupted run was taken up again.

NumPy's counter-based Philox generator draws the values: torch's CPU generator keeps only 32 bits of its seed, few
enough for blocks of one large restoration to repeat each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...utils.rng import numpy_generator

BLOCK = 64  # pixels; one generator per block: small enough for narrow crops, large enough to hide its set-up time
INITIAL_STEP = -1  # the position of x_T, before sampling step 0


@dataclass(frozen=True)
class NoiseField:
    """An unbounded plane of independent N(0, 1) values for each sampling step and each of `channels` channels.

    Channel c is the same whatever the number of channels. Coordinates may be negative.
    """

    seed: int
    channels: int

    def __call__(self, step: int, y0: int, y1: int, x0: int, x1: int) -> Tensor:
        """The region [y0, y1) x [x0, x1) of the field of `step`: float32 (channels, y1 - y0, x1 - x0) on the CPU.

        Raises ValueError for an empty region.
        """
        if y0 >= y1 or x0 >= x1:
            raise ValueError(f"noise region [{y0}, {y1}) x [{x0}, {x1}) is empty: each end must exceed its start")
        field = np.empty((self.channels, y1 - y0, x1 - x0), dtype=np.float32)
        for row in range(y0 // BLOCK, (y1 - 1) // BLOCK + 1):
            for column in range(x0 // BLOCK, (x1 - 1) // BLOCK + 1):
                rows, inner_rows = _shared(row * BLOCK, y0, y1)
                columns, inner_columns = _shared(column * BLOCK, x0, x1)
                field[:, rows, columns] = self._block(step, row, column)[:, inner_rows, inner_columns]
        return torch.from_numpy(field)

    def _block(self, step: int, row: int, column: int) -> np.ndarray:
        rng = numpy_generator(self.seed, "noise", step, row, column)
        return rng.standard_normal((self.channels, BLOCK, BLOCK), dtype=np.float32)


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


def _shared(origin: int, start: int, stop: int) -> tuple[slice, slice]:
    """Where the block that begins at `origin` meets [start, stop): in the region's coordinates and in the block's."""
    low, high = max(origin, start), min(origin + BLOCK, stop)
    return slice(low - start, high - start), slice(low - origin, high - origin)
