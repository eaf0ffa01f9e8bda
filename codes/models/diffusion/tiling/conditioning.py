"""What tiles see and are told of images: their regions, upsampled as the whole would be, continued where it ends.

By reflection, or along an axis that wraps with its beginning.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ....images.canvas import Canvas
from ....images.reflection import reflected
from .plan import NOWHERE, Tile, TilePlan

Spatial = Tensor | Canvas
UPSAMPLING_MARGIN = {"bilinear": 1, "bicubic": 2}  # low-resolution pixels that interpolation reads beyond a region
UPSAMPLED = ("low_res", "corruption_factor")  # conditioning that the network brings to the size of x


def region_of(value: Spatial, tile: Tile, scale: int, wrap: tuple[bool, bool] = NOWHERE) -> Tensor:
    """(1, C, h / scale, w / scale): the tile's region of an image (1, C, H', W') whose pixels are `scale` wide."""
    y0, y1, x0, x1 = tile.y0 // scale, -(-tile.y1 // scale), tile.x0 // scale, -(-tile.x1 // scale)
    return _window(value, y0, y1, x0, x1, wrap)


def upsampled_region(value: Spatial, tile: Tile, plan: TilePlan, scale: int, mode: str, device: torch.device) -> Tensor:
    """(1, C, h, w): the tile's region of the upsampled whole, computed from a crop with a margin.

    So a tile sees at its edge what the upsampled whole shows there. The whole ends where the canvas does, or goes on
    with its beginning.
    """
    top, bottom = _with_margin(tile.y0, tile.y1, plan.height, scale, UPSAMPLING_MARGIN[mode], plan.wrap[0])
    left, right = _with_margin(tile.x0, tile.x1, plan.width, scale, UPSAMPLING_MARGIN[mode], plan.wrap[1])
    crop = _window(value, top, bottom, left, right, plan.wrap).to(device)
    size = (crop.shape[-2] * scale, crop.shape[-1] * scale)
    upsampled = F.interpolate(crop, size=size, mode=mode, align_corners=False)
    y, x = tile.y0 - top * scale, tile.x0 - left * scale
    return upsampled[:, :, y : y + tile.y1 - tile.y0, x : x + tile.x1 - tile.x0]


def _with_margin(start: int, stop: int, length: int, scale: int, margin: int, wrapped: bool) -> tuple[int, int]:
    """The small pixels that upsampling reads for [start, stop) of an axis."""
    first, last = start // scale - margin, -(-stop // scale) + margin
    return (first, last) if wrapped else (max(first, 0), min(last, length // scale))


def is_spatial(value: Spatial) -> bool:
    """Whether conditioning is an image, (1, C, h, w) or a canvas (C, h, w), not a vector or label of the whole."""
    return isinstance(value, Canvas) or value.ndim == 4


def _window(value: Spatial, y0: int, y1: int, x0: int, x1: int, wrap: tuple[bool, bool]) -> Tensor:
    """(1, C, ...): [y0, y1) x [x0, x1) of an image, continued around its edges or by reflection at its ends."""
    rows = _places(y0, y1, value.shape[-2], wrap[0])
    if isinstance(value, Canvas):
        top = int(rows.min())
        value, rows = value.rows(top, int(rows.max()) + 1)[None], rows - top
    columns = _places(x0, x1, value.shape[-1], wrap[1])
    return _picked(_picked(value, -2, rows), -1, columns)


def _places(start: int, stop: int, length: int, wrapped: bool) -> npt.NDArray[np.int64]:
    places = np.arange(start, stop)
    if start >= 0 and stop <= length:
        return places
    return places % length if wrapped else reflected(start, stop, length)


def _picked(value: Tensor, axis: int, places: npt.NDArray[np.int64]) -> Tensor:
    if (np.diff(places) == 1).all():
        return value.narrow(axis, int(places[0]), len(places))
    return value.index_select(axis, torch.from_numpy(places).to(value.device, non_blocking=True))


def rows_around(canvas: Canvas, y0: int, y1: int) -> Tensor:
    """Rows [y0, y1) of a canvas, which beyond its end begins again."""
    if y1 <= canvas.height:
        return canvas.rows(y0, y1)
    parts = [canvas.rows(y0, canvas.height)]
    for start in range(canvas.height, y1, canvas.height):
        parts.append(canvas.rows(0, min(y1 - start, canvas.height)))
    return torch.cat(parts, dim=1)


def columns_around(value: Tensor, x0: int, x1: int) -> Tensor:
    """Columns [x0, x1) of (..., W), which beyond its end begins again."""
    width = value.shape[-1]
    if x1 <= width:
        return value[..., x0:x1]
    return value.index_select(-1, torch.arange(x0, x1, device=value.device) % width)
