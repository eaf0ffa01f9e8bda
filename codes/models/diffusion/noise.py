"""Gaussian noise keyed by coordinates: what falls on a pixel depends on (seed, step, y, x) and on nothing else.

So a picture does not depend on how it was cut into tiles or bands, on padding to the right and below, on the batch it
was in, or on where an interrupted run was taken up again.

A counter-based generator draws the values where they are needed, the same on every device (`utils/philox.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...utils.philox import normal_planes
from ...utils.rng import derive_seed

CPU = torch.device("cpu")
INITIAL_STEP = -1  # the position of x_T, before sampling step 0
MEAN_STEP = -2  # that of the noise which the mean of `blend` is told from


@dataclass(frozen=True)
class NoiseField:
    """An unbounded plane of independent N(0, 1) values for each sampling step and each of `channels` channels.

    Channel c is the same whatever the number of channels. Coordinates may be negative.
    """

    seed: int
    channels: int

    def __call__(self, step: int, y0: int, y1: int, x0: int, x1: int, device: torch.device = CPU) -> Tensor:
        """The region [y0, y1) x [x0, x1) of the field of `step`: float32 (channels, y1 - y0, x1 - x0) on `device`.

        Raises ValueError for an empty region.
        """
        if y0 >= y1 or x0 >= x1:
            raise ValueError(f"noise region [{y0}, {y1}) x [{x0}, {x1}) is empty: each end must exceed its start")
        seed = derive_seed(self.seed, "noise", step)
        return normal_planes((seed,), self.channels, (y0, y1), (x0, x1), device)[0]
