"""Pictures of the comparison page as data URIs, within a budget of bytes."""

import base64
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

# A browser decodes an image to 4 bytes a pixel; several layers of more than this would exhaust a phone or small laptop.
MAX_SHOWN_PIXELS = 16_000_000
BASE64_GROWTH = 4 / 3
# Bytes a pixel that a photograph takes; decides what is worth trying and the sizes of previews and details.
PNG_BYTES, JPEG_BYTES = 2.0, 0.5
# Side of the smallest preview or detail that is of any use, and of the largest detail.
SMALLEST_VIEW, LARGEST_DETAIL = 192, 1024


@dataclass(frozen=True)
class View:
    """One way to look at an entry: the whole of it or a detail, every layer encoded alike.

    `scale`: pixels of the view a pixel of the image. `layers`: label -> data URI, (height, width) each.
    """

    name: str
    note: str
    width: int
    height: int
    scale: float
    layers: dict[str, str]

    @property
    def bytes(self) -> int:
        return sum(map(len, self.layers.values()))


def embed(layers: Mapping[str, Pixels], budget: float) -> list[View]:
    """Encode all layers alike, so that they compare fairly: lossless if `budget` bytes allow, else compressed, else
    a scaled preview of the whole and a lossless detail."""
    height, width, _ = next(iter(layers.values())).shape
    pixels = width * height
    for lossless in (True, False):
        least = (PNG_BYTES if lossless else JPEG_BYTES) / 2 * BASE64_GROWTH * pixels * len(layers)
        if pixels > MAX_SHOWN_PIXELS or least > budget:
            continue
        note = "full size, lossless" if lossless else "full size, compressed for this page (JPEG 92)"
        view = _view("Whole image", note, layers, 1.0, lossless)
        if view.bytes <= budget:
            return [view]
    return _preview_and_detail(layers, budget)


def _preview_and_detail(layers: Mapping[str, Pixels], budget: float) -> list[View]:
    """Half of `budget` (bytes for all layers) for each view, yet neither becomes uselessly small."""
    share = budget / 2
    layer_share = share / len(layers) / BASE64_GROWTH
    preview_area = min(layer_share / JPEG_BYTES, MAX_SHOWN_PIXELS / 4)
    detail_area = min(layer_share / PNG_BYTES, LARGEST_DETAIL**2)
    return [
        _within(share, preview_area, lambda area: _preview(layers, area)),
        _within(share, detail_area, lambda area: _detail(layers, area)),
    ]


def _within(budget: float, area: float, make: Callable[[float], View]) -> View:
    """`make` a view of `area` pixels; once more and smaller if it compressed worse than a usual photograph."""
    area = max(area, SMALLEST_VIEW**2)
    view = make(area)
    if view.bytes > budget and area > SMALLEST_VIEW**2:
        return make(max(0.95 * area * budget / view.bytes, SMALLEST_VIEW**2))
    return view


def _preview(layers: Mapping[str, Pixels], area: float) -> View:
    height, width, _ = next(iter(layers.values())).shape
    scale = min(1.0, math.sqrt(area / (width * height)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = {
        label: np.asarray(_image(pixels).resize(size, Image.Resampling.LANCZOS)) for label, pixels in layers.items()
    }
    return _view("Whole image", f"scaled to {100 * scale:.2g} % for this page (JPEG 92)", small, scale, lossless=False)


def _detail(layers: Mapping[str, Pixels], area: float) -> View:
    side = int(math.sqrt(area))
    top, left = _busiest(layers, side)
    detail = {label: pixels[top : top + side, left : left + side] for label, pixels in layers.items()}
    return _view("Detail", f"full size from x {left}, y {top}, lossless", detail, 1.0, lossless=True)


def _busiest(layers: Mapping[str, Pixels], side: int) -> tuple[int, int]:
    """Top and left of the square of `side` pixels in which the layers differ most from the first one."""
    first, *others = layers.values()
    stride = max(1, side // 64)
    coarse = first[::stride, ::stride].astype(np.int16)
    difference = sum(
        (
            np.abs(other[::stride, ::stride].astype(np.int16) - coarse).mean(axis=2, dtype=np.float32)
            for other in others
        ),
        start=np.zeros(coarse.shape[:2], dtype=np.float32),
    )
    window = max(1, min(side // stride, *coarse.shape[:2]))
    sums = np.pad(difference.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    boxes = sums[window:, window:] - sums[:-window, window:] - sums[window:, :-window] + sums[:-window, :-window]
    row, column = np.unravel_index(int(boxes.argmax()), boxes.shape)
    height, width, _ = first.shape
    return max(0, min(int(row) * stride, height - side)), max(0, min(int(column) * stride, width - side))


def _view(name: str, note: str, layers: Mapping[str, Pixels], scale: float, lossless: bool) -> View:
    height, width, _ = next(iter(layers.values())).shape
    return View(name, note, width, height, scale, {label: _data_uri(p, lossless) for label, p in layers.items()})


def _data_uri(pixels: Pixels, lossless: bool) -> str:
    buffer = io.BytesIO()
    if lossless:
        _image(pixels).save(buffer, format="PNG")
    else:
        # Chroma at full resolution: colour fringes are among the things people look for.
        _image(pixels).save(buffer, format="JPEG", quality=92, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels))
