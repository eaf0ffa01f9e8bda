"""The gray value of a colour: ITU-R BT.601's weights, summed channel by channel.

Written out and not as a matrix product: a BLAS may sum in another order for another memory layout, processor or number
of threads, and then the last bit differs.
"""

from typing import TypeVar

import numpy as np
from torch import Tensor

Plane = TypeVar("Plane", np.ndarray, Tensor)

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601-7, 2.5.1; they add up to 1, so any range is kept


def luma(red: Plane, green: Plane, blue: Plane) -> Plane:
    """The luma of three planes of one shape and floating dtype, in their range."""
    return LUMA_WEIGHTS[0] * red + LUMA_WEIGHTS[1] * green + LUMA_WEIGHTS[2] * blue


def luma_of(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 1), same dtype and range."""
    return luma(image[..., 0], image[..., 1], image[..., 2])[..., None]
