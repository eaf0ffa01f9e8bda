"""Opening an image file: what its header says, by Pillow, or by others for the TIFFs that Pillow does not open.

A JPEG XL is opened by none: Pillow's plugin decodes the whole picture to say how large it is.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .exif import ORIENTATION
from .jpeg_xl import is_jpeg_xl, jpeg_xl_exif, jpeg_xl_header
from .tiff_layers import TiffHeader, is_tiff, tiff_header, tiff_tags

TURNED = frozenset((5, 6, 7, 8))  # orientations of EXIF that exchange height and width


@dataclass(frozen=True)
class Header:
    """What is known of an image file before it is decoded; sizes are as stored, before its orientation.

    `image`: Pillow's, not decoded yet; None for JPEG XL and for TIFF layouts that it does not know. `tiff`: of those
    alone.
    """

    format: str
    height: int
    width: int
    mode: str
    exif: Image.Exif
    image: Image.Image | None
    tiff: TiffHeader | None = None

    @property
    def orientation(self) -> int:
        """EXIF's, 1 to 8. Reading it from a PNG without EXIF in front of its pixels decodes them."""
        value = self.exif.get(ORIENTATION, 1)
        return value if value in range(1, 9) else 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width), from the header alone."""
        if self.image is None:
            turned = self.orientation in TURNED
        else:
            # Pillow has swapped the sides of a TIFF already, and decodes a whole PNG to find EXIF behind the pixels.
            skip = self.format == "TIFF" or (self.format == "PNG" and "exif" not in self.image.info)
            turned = not skip and self.image.getexif().get(ORIENTATION) in TURNED
        return (self.width, self.height) if turned else (self.height, self.width)


@contextmanager
def opened(source: Path | io.BytesIO) -> Iterator[Header]:
    """The header of a file. Raises Pillow's UnidentifiedImageError, or whatever else a decoder raises."""
    with _without_pillows_limit:
        if (jpeg_xl := _jpeg_xl(source)) is not None:
            yield jpeg_xl
            return
        try:
            image = Image.open(source)
        except Image.UnidentifiedImageError:
            header = _tiff(source)
            if header is None:
                raise
            yield header
            return
        with image:
            exif = Image.Exif() if image.format == "PNG" and "exif" not in image.info else image.getexif()
            yield Header(image.format or "unknown", image.height, image.width, image.mode, exif, image)


def _jpeg_xl(source: Path | io.BytesIO) -> Header | None:
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        head = file.read(12)
        data = head + file.read() if is_jpeg_xl(head) else b""
        file.seek(0)
    if not data:
        return None
    said, exif = jpeg_xl_header(data), Image.Exif()
    with suppress(Exception):  # a remark that is damaged, in whatever way, is no reason to refuse the picture
        exif.load(jpeg_xl_exif(data))
        exif.pop(ORIENTATION, None)  # the picture's own header says how it is turned, and decoders turn it
    return Header("JXL", said.height, said.width, f"{said.bits} bits", exif, None)


def _tiff(source: Path | io.BytesIO) -> Header | None:
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(0)
        if not is_tiff(file.read(4)):
            return None
        file.seek(0)
        tiff = tiff_header(file)
        file.seek(0)
        exif = Image.Exif()
        if tiff.big:  # of which Pillow reads no tags
            exif.update(tiff_tags(file))
        else:
            exif.load_from_fp(file)
        mode = f"{tiff.samples} channels of {tiff.bits} bits"
        return Header("TIFF", tiff.height, tiff.width, mode, exif, None, tiff)


class _WithoutPillowsLimit:
    """Pillow's limit of pixels is a global of the process; ours is an argument. Lifted while any file is open here."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open_files = 0
        self.limit: int | None = None

    def __enter__(self) -> None:
        with self.lock:
            if not self.open_files:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.open_files += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.open_files -= 1
            if not self.open_files:
                Image.MAX_IMAGE_PIXELS = self.limit


_without_pillows_limit = _WithoutPillowsLimit()
