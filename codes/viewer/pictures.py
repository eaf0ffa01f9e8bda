"""Pictures of the comparison page: as data URIs inside it while they are few, else as files in a folder beside it.

Whatever the layers of an entry become, they all become it alike, so that they compare fairly.
"""

import base64
import hashlib
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from ..utils.files import atomic_write
from .layers import Layer, Pixels, sampled

# A browser decodes an image to 4 bytes a pixel; several layers of more than this would exhaust a phone or small laptop.
MAX_SHOWN_PIXELS = 16_000_000
LARGEST_SIDE = 16383  # pixels: of WebP, and about of what browsers draw
BASE64_GROWTH = 4 / 3
# Bytes a pixel that a photograph takes; decides what is worth trying and the sizes of previews and details.
LOSSLESS_BYTES, JPEG_BYTES = 1.6, 0.5
# Side of the smallest preview or detail that is of any use, and of the largest detail.
SMALLEST_VIEW, LARGEST_DETAIL = 192, 1024
OWN_NAME = re.compile(r"[0-9a-f]{24}\.(?:webp|jpg)")


@dataclass(frozen=True)
class _Geometry:
    """What is shown of an entry, the whole of it or a detail; `scale`: its pixels a pixel of the image."""

    name: str
    note: str
    width: int
    height: int
    scale: float


@dataclass(frozen=True)
class Shown(_Geometry):
    """With its pictures in place. `urls`: label -> URL of a picture of (height, width); all are encoded alike."""

    urls: Mapping[str, str]

    @property
    def shape(self) -> dict[str, str | int | float]:
        """What the script needs to know before any picture is there."""
        return {"name": self.name, "note": self.note, "width": self.width, "height": self.height, "scale": self.scale}


@dataclass(frozen=True)
class _Encoded(_Geometry):
    """Before its pictures have a place. `files`: label -> (suffix, bytes of the file)."""

    files: Mapping[str, tuple[str, bytes]]

    @property
    def bytes(self) -> int:
        return sum(len(data) for _, data in self.files.values())


class Pictures:
    """Gives the pictures of `count` entries their place: inside the page or in `folder` beside it.

    `inside`, `beside`: about how many bytes may go there; what an entry leaves unused is shared among the following
    ones. An entry goes inside, losslessly, if its share allows, else beside it, losslessly, else compressed; what is
    too large for that, or for a browser, becomes a scaled preview and a lossless detail. `folder` None: all inside.
    """

    def __init__(self, folder: Path | None, inside: float, beside: float, count: int) -> None:
        self.folder = folder
        self._left = {True: float(inside) / BASE64_GROWTH, False: float(beside)}
        self._count = count
        self._written: set[str] = set()

    @property
    def location(self) -> str:
        """Name of the folder that holds pictures; empty when all lie inside the page."""
        return self.folder.name if self.folder and self._written else ""

    def place(self, layers: Mapping[str, Layer]) -> list[Shown]:
        """What is shown of one entry, its pictures written."""
        inside, encoded = self._choose(layers)
        self._left[inside] -= sum(view.bytes for view in encoded)
        if not inside:
            self._left[True] = 0.0  # the rest goes beside as well, rather than small pictures here and large ones there
        self._count -= 1
        return [
            Shown(e.name, e.note, e.width, e.height, e.scale, {k: self._put(*v, inside) for k, v in e.files.items()})
            for e in encoded
        ]

    def _choose(self, layers: Mapping[str, Layer]) -> tuple[bool, list[_Encoded]]:
        """Whether an entry goes inside, and as what."""
        elsewhere = self.folder is None
        first, other = self._share(True), self._share(elsewhere)
        view = _whole(layers, True, max(first, other))
        if view is not None:
            return view.bytes <= first or elsewhere, [view]
        view = _whole(layers, False, other)
        return elsewhere, [view] if view else _preview_and_detail(layers, other)

    def _share(self, inside: bool) -> float:
        return max(0.0, self._left[inside]) / max(1, self._count)

    def _put(self, suffix: str, data: bytes, inside: bool) -> str:
        if inside:
            kind = "jpeg" if suffix == "jpg" else suffix
            return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        assert self.folder is not None
        # Named by what they hold: a page that is written anew never changes a picture under an older page.
        name = f"{hashlib.sha256(data).hexdigest()[:24]}.{suffix}"
        if name not in self._written and not (self.folder / name).is_file():
            with atomic_write(self.folder / name) as temporary:
                temporary.write_bytes(data)
        self._written.add(name)
        return f"./{quote(os.fsencode(self.folder.name))}/{name}"

    def remove_others(self) -> None:
        """Remove pictures of earlier pages from the folder, and the folder if nothing is left in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        for file in self.folder.iterdir():
            if OWN_NAME.fullmatch(file.name) and file.name not in self._written:
                file.unlink()
        with suppress(OSError):  # not empty
            self.folder.rmdir()


def _whole(layers: Mapping[str, Layer], lossless: bool, budget: float) -> _Encoded | None:
    """All layers in full size, or None if they are too large for a browser or for `budget` bytes."""
    height, width, _ = next(iter(layers.values())).shape
    pixels = width * height
    least = (LOSSLESS_BYTES if lossless else JPEG_BYTES) / 2 * pixels * len(layers)
    if pixels > MAX_SHOWN_PIXELS or max(width, height) > LARGEST_SIDE or least > budget:
        return None
    note = "full size, lossless" if lossless else "full size, compressed for this page (JPEG 92)"
    full = {label: layer.crop(0, height, 0, width) for label, layer in layers.items()}
    view = _encoded("Whole image", note, full, 1.0, lossless)
    return view if view.bytes <= budget else None


def _preview_and_detail(layers: Mapping[str, Layer], budget: float) -> list[_Encoded]:
    """Half of `budget` (bytes for all layers) for each view, yet neither becomes uselessly small."""
    share = budget / 2
    preview_area = min(share / len(layers) / JPEG_BYTES, MAX_SHOWN_PIXELS / 4)
    detail_area = min(share / len(layers) / LOSSLESS_BYTES, LARGEST_DETAIL**2)
    return [
        _within(share, preview_area, lambda area: _preview(layers, area)),
        _within(share, detail_area, lambda area: _detail(layers, area)),
    ]


def _within(budget: float, area: float, make: Callable[[float], _Encoded]) -> _Encoded:
    """`make` a view of `area` pixels; once more and smaller if it compressed worse than a usual photograph."""
    area = max(area, SMALLEST_VIEW**2)
    view = make(area)
    if view.bytes > budget and area > SMALLEST_VIEW**2:
        return make(max(0.95 * area * budget / view.bytes, SMALLEST_VIEW**2))
    return view


def _preview(layers: Mapping[str, Layer], area: float) -> _Encoded:
    height, width, _ = next(iter(layers.values())).shape
    scale = min(1.0, math.sqrt(area / (width * height)), LARGEST_SIDE / max(width, height))
    small = {
        label: layer.shrunk(max(1, round(height * scale)), max(1, round(width * scale)))
        for label, layer in layers.items()
    }
    note = f"scaled to {100 * scale:.2g} % for this page (JPEG 92)"
    return _encoded("Whole image", note, small, scale, lossless=False)


def _detail(layers: Mapping[str, Layer], area: float) -> _Encoded:
    side = int(math.sqrt(area))
    height, width, _ = next(iter(layers.values())).shape
    top, left = _busiest(layers, side)
    bottom, right = min(top + side, height), min(left + side, width)
    detail = {label: layer.crop(top, bottom, left, right) for label, layer in layers.items()}
    return _encoded("Detail", f"full size from x {left}, y {top}, lossless", detail, 1.0, lossless=True)


def _busiest(layers: Mapping[str, Layer], side: int) -> tuple[int, int]:
    """Top and left of the square of `side` pixels in which the layers differ most from the first one."""
    first, *others = layers.values()
    stride = max(1, side // 64)
    coarse = sampled(first, stride).astype(np.int16)
    difference = sum(
        (np.abs(sampled(other, stride).astype(np.int16) - coarse).mean(axis=2, dtype=np.float32) for other in others),
        start=np.zeros(coarse.shape[:2], dtype=np.float32),
    )
    window = max(1, min(side // stride, *coarse.shape[:2]))
    sums = np.pad(difference.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    boxes = sums[window:, window:] - sums[:-window, window:] - sums[window:, :-window] + sums[:-window, :-window]
    row, column = np.unravel_index(int(boxes.argmax()), boxes.shape)
    height, width, _ = first.shape
    return max(0, min(int(row) * stride, height - side)), max(0, min(int(column) * stride, width - side))


def _encoded(name: str, note: str, layers: Mapping[str, Pixels], scale: float, lossless: bool) -> _Encoded:
    height, width, _ = next(iter(layers.values())).shape
    files = {label: encode(pixels, lossless) for label, pixels in layers.items()}
    return _Encoded(name, note, width, height, scale, files)


def encode(pixels: Pixels, lossless: bool) -> tuple[str, bytes]:
    """(suffix, bytes): lossless WebP, or JPEG with full chroma."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    buffer = io.BytesIO()
    if not lossless:
        # Chroma at full resolution: colour fringes are among the things people look for.
        picture.save(buffer, format="JPEG", quality=92, subsampling=0)
        return "jpg", buffer.getvalue()
    # Method 0 is three times as fast as the usual one and a sixth smaller than PNG.
    picture.save(buffer, format="WEBP", lossless=True, method=0, quality=20)
    return "webp", buffer.getvalue()
