"""Drawn pictures with a class: a small set to try class-conditional generation on, without any data.

A shape is a signed distance function: points (x, y), y downwards, to the distance from the outline, negative inside.
Shapes fit into the circle of radius 1; the two patterns go on for ever. Distances are exact inside and near the edges.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..utils.rng import numpy_generator

Plane = npt.NDArray[np.float64]


def _box(x: Plane, y: Plane, width: float, height: float) -> Plane:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _disk(x: Plane, y: Plane, radius: float) -> Plane:
    return np.hypot(x, y) - radius


def _bars(x: Plane, period: float) -> Plane:
    return np.abs(x / period % 1.0 - 0.5) * period - period / 4


def _circle(x: Plane, y: Plane) -> Plane:
    return _disk(x, y, 0.9)


def _square(x: Plane, y: Plane) -> Plane:
    return _box(x, y, 0.72, 0.72)


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(_disk(x, y, 0.72)) - 0.2


def _cross(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95))


def _moon(x: Plane, y: Plane) -> Plane:
    return np.maximum(_disk(x, y, 0.95), -_disk(x - 0.5, y, 0.75))


def _triangle(x: Plane, y: Plane) -> Plane:
    half = math.sqrt(3.0) / 2
    return np.maximum(y, half * np.abs(x) - y / 2) - 0.5


def _heart(x: Plane, y: Plane) -> Plane:
    """A square on its tip and two disks on its upper sides."""
    side, down = 0.52, y - 0.07
    diagonal, other = (x + down) * math.sqrt(0.5), (x - down) * math.sqrt(0.5)
    lobe = side * math.sqrt(0.5)
    return np.minimum(_box(diagonal, other, side, side), _disk(np.abs(x) - lobe, down + lobe, side))


def _star(x: Plane, y: Plane) -> Plane:
    """Five points, folded onto one edge: from the tip (1, 0) to the notch at 36 degrees."""
    tenth, notch = math.pi / 5, 0.42
    angle = np.abs((np.arctan2(x, -y) + tenth) % (2 * tenth) - tenth)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    run, rise = notch * math.cos(tenth) - 1.0, notch * math.sin(tenth)
    return (rise * (along - 1.0) - run * across) / math.hypot(run, rise)


def _stripes(x: Plane, y: Plane) -> Plane:  # noqa: ARG001 - one signature for all
    return _bars(x, 0.8)


def _checkers(x: Plane, y: Plane) -> Plane:
    across, down = _bars(x, 1.2), _bars(y, 1.2)
    return np.maximum(np.minimum(across, down), -np.maximum(across, down))


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "checkers": _checkers,
    "circle": _circle,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "stripes": _stripes,
    "triangle": _triangle,
}


def draw_shape(name: str, size: int, seed: int, number: int) -> npt.NDArray[np.float32]:
    """Picture `number` of a class: float32 RGB (size, size, 3) in [0, 1], a function of the arguments alone.

    Colours, place, size and a tilt of up to 12 degrees are drawn; the background runs from one colour to another.
    """
    rng = numpy_generator(seed, "shape", name, number)
    near, far, front = _colours(rng)
    radius, tilt = rng.uniform(0.68, 0.85), math.radians(rng.uniform(-12, 12))
    place = rng.uniform(-1, 1, 2) * (0.95 - radius)
    row = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(row - place[0], row - place[1])
    x, y = x * math.cos(tilt) + y * math.sin(tilt), y * math.cos(tilt) - x * math.sin(tilt)
    distance = SHAPES[name](x / radius, y / radius) * radius
    covered = np.clip(0.5 - distance * size / 2, 0.0, 1.0)[..., None]  # a pixel's share, from its centre's distance
    share = ((row[:, None] + 1) / 2)[..., None]
    background = near * (1 - share) + far * share
    picture: npt.NDArray[np.float32] = (background * (1 - covered) + front * covered).astype(np.float32)
    return picture


def _colours(rng: np.random.Generator) -> tuple[Plane, Plane, Plane]:
    """A dark background, at the top and at the bottom, and a bright, strong foreground, each RGB (3,) in [0, 1]."""
    hue = 6 * rng.random()
    strong = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return rng.uniform(0, 0.3, 3), rng.uniform(0, 0.3, 3), strong + rng.uniform(0, 0.6) * (1 - strong)
