"""Where tiles are cut from decoded images, and how flat they are."""

import cv2
import numpy as np

from ..images.pixels import quantise, to_float

TILE_DRAWS = 8


def gray_deviation(samples: np.ndarray) -> float:
    """Standard deviation of the gray values, 0..255, of uint8 or uint16 (H, W, 3)."""
    eight = samples if samples.dtype == np.uint8 else quantise(to_float(samples))
    return float(cv2.meanStdDev(cv2.cvtColor(eight, cv2.COLOR_RGB2GRAY))[1][0, 0])


def window(samples: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """The square (side, side, 3) at a place."""
    return samples[top : top + side, left : left + side]


def centre_corner(samples: np.ndarray, side: int) -> tuple[int, int]:
    """(top, left) of the square in the middle."""
    height, width = samples.shape[:2]
    return (height - side) // 2, (width - side) // 2


def random_corner(samples: np.ndarray, side: int, rng: np.random.Generator, min_std: float = 0.0) -> tuple[int, int]:
    """(top, left) of a random square whose gray values deviate by at least `min_std`.

    After TILE_DRAWS draws the liveliest of them is taken, so an image that is flat everywhere still gives a tile.
    """
    best, corner = -1.0, (0, 0)
    for _ in range(TILE_DRAWS):
        top, left = (int(rng.integers(0, length - side + 1)) for length in samples.shape[:2])
        if not min_std:
            return top, left
        deviation = gray_deviation(window(samples, top, left, side))
        if deviation > best:
            best, corner = deviation, (top, left)
        if best >= min_std:
            break
    return corner
