"""What tiles are told of images: regions of spatial conditioning, upsampled as the whole would be."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .plan import Tile, TilePlan, reflect_indices

UPSAMPLING_MARGIN = {"bilinear": 1, "bicubic": 2}  # low-resolution pixels that interpolation reads beyond a region
UPSAMPLED = ("low_res", "corruption_factor")  # conditioning that the network brings to the size of x


def region_of(value: Tensor, tile: Tile, scale: int) -> Tensor:
    """(1, C, h / scale, w / scale): the tile's region of an image (1, C, H', W') whose pixels are `scale` wide."""
    y0, y1, x0, x1 = tile.y0 // scale, -(-tile.y1 // scale), tile.x0 // scale, -(-tile.x1 // scale)
    return _window(value, y0, y1, x0, x1)


def upsampled_region(value: Tensor, tile: Tile, plan: TilePlan, scale: int, mode: str, device: torch.device) -> Tensor:
    """(1, C, h, w): the tile's region of the upsampled whole, computed from a crop with a margin.

    So a tile sees at its edge what the upsampled whole shows there. The whole ends where the canvas does.
    """
    margin = UPSAMPLING_MARGIN[mode]
    top, left = max(tile.y0 // scale - margin, 0), max(tile.x0 // scale - margin, 0)
    bottom = min(tile.y1 // scale + margin, plan.height // scale)
    right = min(tile.x1 // scale + margin, plan.width // scale)
    crop = _window(value, top, bottom, left, right).to(device)
    size = (crop.shape[-2] * scale, crop.shape[-1] * scale)
    upsampled = F.interpolate(crop, size=size, mode=mode, align_corners=False)
    y, x = tile.y0 - top * scale, tile.x0 - left * scale
    return upsampled[:, :, y : y + tile.y1 - tile.y0, x : x + tile.x1 - tile.x0]


def _window(value: Tensor, y0: int, y1: int, x0: int, x1: int) -> Tensor:
    """[y0, y1) x [x0, x1) of an image (1, C, H, W), continued to the right and below by repeated reflection."""
    height, width = value.shape[-2:]
    if y1 <= height and x1 <= width:
        return value[..., y0:y1, x0:x1]
    rows = torch.from_numpy(reflect_indices(height, max(y1, height))[y0:y1])
    columns = torch.from_numpy(reflect_indices(width, max(x1, width))[x0:x1])
    return value.index_select(-2, rows.to(value.device)).index_select(-1, columns.to(value.device))
