"""Reading image files: bit depths, alpha, palettes, CMYK, ICC profiles, EXIF orientation, damaged files.

Use it through `utils.images`, which is the whole interface.
"""

import io
import re
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..utils.errors import DataError
from .exif import ORIENTATION, fitted_exif
from .pixels import quantise, to_float
from .profiles import convert_profile, convert_samples, is_srgb

Alpha = Literal["white", "black", "crop"]
MAX_PIXELS = 400_000_000
_END_BYTES = 4096
_RGB_ORDER = getattr(cv2, "IMREAD_COLOR_RGB", 0)  # OpenCV before 4.11 knows BGR alone
_FULL_COLOUR = _RGB_ORDER or cv2.IMREAD_COLOR
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
_ORIENTED_TURNED = frozenset((5, 6, 7, 8))
_GRAY_MODES = frozenset(("1", "L", "LA", "La", "I", "F"))
# What Pillow's many decoders raise on damaged files.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, RuntimeError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    OverflowError, struct.error, zlib.error, cv2.error,
)  # fmt: skip
_open_lock = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A decoded image file.

    `rgb` float32 (H, W, 3) in [0, 1], sRGB, upright; `alpha` float32 (H, W) in [0, 1] or None (not premultiplied);
    `gray`: the file has one colour channel; `bit_depth` 8 or 16: the depth that `rgb` really has; `exif` and `icc` are
    bytes that fit `rgb` and can go to `write_image` as they are (orientation reset; the profile describes sRGB, None
    where the file had none); `format` is Pillow's name ("JPEG", "PNG", ...).
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    gray: bool
    bit_depth: int
    exif: bytes | None
    icc: bytes | None
    format: str


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image file says: upright size in pixels, Pillow's mode and format."""

    height: int
    width: int
    mode: str
    format: str


@dataclass(frozen=True)
class _Decoded:
    """Integer samples (H, W, 3 or 4), upright and sRGB, before the conversion to float."""

    samples: np.ndarray
    gray: bool
    exif: bytes | None
    icc: bytes | None
    format: str


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read any image file. Raises DataError with path and reason: missing, empty, truncated, too large, no image."""
    decoded = _decode(Path(path), max_pixels)
    values = to_float(decoded.samples)
    has_alpha = values.shape[2] == 4
    return Picture(
        rgb=np.ascontiguousarray(values[..., :3]),
        alpha=np.ascontiguousarray(values[..., 3]) if has_alpha else None,
        gray=decoded.gray,
        bit_depth=16 if decoded.samples.dtype == np.uint16 else 8,
        exif=decoded.exif,
        icc=decoded.icc,
        format=decoded.format,
    )


def read_samples(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, alpha: Alpha = "white", shortest_side: int | None = None
) -> np.ndarray:
    """As `read_image`, but the integer samples, uint8 or uint16 (H, W, 3), without transparency.

    For training: large photographs stay small in memory until a tile of them is converted by `to_float`.
    `alpha` says what becomes of transparency: laid over white or black, or the rectangle that holds everything
    visible is cut out first and then laid over white. With `shortest_side` a JPEG may come at 1/2, 1/4 or 1/8 of its
    size, several times faster, as long as its short side keeps that many pixels.
    """
    path = Path(path)
    samples = _decode(path, max_pixels, shortest_side).samples
    return samples if samples.shape[2] == 3 else _without_alpha(samples, alpha, path)


def _without_alpha(samples: np.ndarray, alpha: Alpha, path: Path) -> np.ndarray:
    if alpha == "crop":
        visible = samples[..., 3] > 0
        rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
        if not rows.size:
            raise DataError(f"{path}: nothing in it is visible (alpha is 0 everywhere)")
        samples = samples[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    values = to_float(samples)
    ground = np.float32(0.0 if alpha == "black" else 1.0)
    flat = values[..., :3] * values[..., 3:] + ground * (1.0 - values[..., 3:])
    return quantise(flat, 16 if samples.dtype == np.uint16 else 8)


def looks_whole(path: str | Path) -> bool:
    """False when the end mark of a JPEG or PNG is not where it belongs; about 0.02 ms. True for other formats.

    A file without it may still decode (some programs append data), so only decoding proves it damaged.
    """
    with Path(path).open("rb") as file:
        head = file.read(8)
        file.seek(max(file.seek(0, io.SEEK_END) - _END_BYTES, 0))
        tail = file.read()
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in tail
    return not head.startswith(b"\x89PNG") or b"IEND" in tail


def jpeg_table(path: str | Path) -> np.ndarray | None:
    """The quantisation table of the luminance, int (8, 8), of a JPEG file; None for other formats.

    Raises DataError as `read_image` does.
    """
    path = Path(path)
    with _reported(path), _open(path, path, sys.maxsize) as image:
        tables = getattr(image, "quantization", None)
        return np.array(tables[min(tables)]).reshape(8, 8) if tables else None


def count_frames(path: str | Path) -> int:
    """Frames of an animation or pages of a TIFF, of which only the first is ever read. Raises as `read_image` does."""
    path = Path(path)
    with _reported(path), _open(path, path, sys.maxsize) as image:
        return 1 if image.format in ("JPEG", "MPO") else int(getattr(image, "n_frames", 1))


def probe_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Size and mode from the header alone (about 0.1 ms). Raises DataError as `read_image` does."""
    path = Path(path)
    with _reported(path), _open(path, path, max_pixels) as image:
        return ImageInfo(*_upright_size(image), mode=image.mode, format=image.format or "unknown")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width), from the header alone."""
    width, height = image.size
    # Pillow has swapped the sides of a TIFF already, and decodes a whole PNG to look for EXIF behind its pixels.
    skip = image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info)
    turned = not skip and image.getexif().get(ORIENTATION) in _ORIENTED_TURNED
    return (width, height) if turned else (height, width)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError that names the file and the reason."""
    try:
        yield
    except Image.UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "not an image file"
        raise DataError(f"{path}: {reason}") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except MemoryError:
        raise DataError(f"{path}: not enough memory to decode it") from None
    except _DECODE_ERRORS as error:
        raise DataError(f"{path}: cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})") from None


@contextmanager
def _open(path: Path, source: Path | io.BytesIO, max_pixels: int) -> Iterator[Image.Image]:
    # Pillow's own limit is a process-wide global; ours is an argument, so the global is lifted for the header only.
    with _open_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise DataError(f"{path}: {width} x {height} pixels are more than the limit of {max_pixels} (max_pixels)")
        yield image


def _decode(path: Path, max_pixels: int, shortest_side: int | None = None) -> _Decoded:
    with _reported(path):
        data = path.read_bytes()
        with _open(path, io.BytesIO(data), max_pixels) as image:
            name = image.format or "unknown"
            gray = _is_gray(image, data)
            deep = _is_16_bit(image, data)
            orientation = image.getexif().get(ORIENTATION, 1)
            # Before the pixels: Pillow turns a TIFF as it decodes it.
            exif = _upright_exif(image)
            if deep:
                samples = _decode_16_bit(data, 1 if name == "TIFF" else orientation)
                samples, icc = convert_samples(samples, gray, image.info.get("icc_profile"), path)
            elif (fast := _decode_plain_jpeg(image, data, orientation, shortest_side)) is not None:
                samples, icc = fast, image.info.get("icc_profile")
            else:
                upright = image if orientation == 1 else ImageOps.exif_transpose(image)
                converted, icc = _to_srgb(_plain_mode(upright, path), gray, path)
                samples = np.array(converted)
            return _Decoded(samples, gray, exif, icc, name)


def _decode_plain_jpeg(
    image: Image.Image, data: bytes, orientation: int, shortest_side: int | None
) -> np.ndarray | None:
    """uint8 (H, W, 3) of a whole colour JPEG in sRGB: Pillow's pixels in about 60 % of its time. None for others."""
    profile = image.info.get("icc_profile")
    # OpenCV returns half a picture for a truncated file, without an error; Pillow refuses it.
    if image.format != "JPEG" or image.mode != "RGB" or data.rfind(b"\xff\xd9", -_END_BYTES) < 0:
        return None
    if profile and not is_srgb(profile):
        return None
    side = min(image.size)
    factor = next((factor for factor in _REDUCED if shortest_side and side // factor >= shortest_side), 1)
    flags = _REDUCED.get(factor, _FULL_COLOUR)
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if samples is None:
        return None
    if not flags & _RGB_ORDER:
        samples = cv2.cvtColor(samples, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(_upright(samples, orientation))


def _is_gray(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":
        return data[25] in (0, 4)  # Pillow opens 16-bit gray with alpha as RGBA
    return image.mode in _GRAY_MODES or image.mode.startswith("I;16")


def _is_16_bit(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        return max(tags.get(258, (1,))) == 16 and set(tags.get(339, (1,))) == {1} and image.mode != "CMYK"
    if image.format == "PPM":
        header = re.match(rb"P[56]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s+65535\s", data[:1000])
        return header is not None
    return False


def _decode_16_bit(data: bytes, orientation: int) -> np.ndarray:
    """uint16 (H, W, 3 or 4). OpenCV applies a TIFF's orientation by itself, and nothing to a PNG."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("its 16-bit samples cannot be read")
    if samples.ndim == 2 or samples.shape[2] == 1:
        samples = cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB)
    elif samples.shape[2] == 2:
        samples = np.concatenate([np.repeat(samples[..., :1], 3, axis=2), samples[..., 1:]], axis=2)
    else:
        samples = cv2.cvtColor(samples, cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(_upright(samples, orientation))


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1..8 to (H, W, C)."""
    if orientation in _ORIENTED_TURNED:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _upright_exif(image: Image.Image) -> bytes | None:
    return fitted_exif(image.getexif(), *_upright_size(image))


def _plain_mode(image: Image.Image, path: Path) -> Image.Image:
    """One of L, RGB, RGBA, CMYK. The profile stays in `info`."""
    if image.mode in ("L", "RGB", "RGBA", "CMYK"):
        transparent_colour = image.mode != "RGBA" and "transparency" in image.info
        return image.convert("RGBA") if transparent_colour else image
    if image.mode == "F" or image.mode == "I":
        low, high = image.getextrema()
        ceiling = 1.0 if image.mode == "F" else 255.0
        if float(low) < 0 or float(high) > ceiling:  # type: ignore[arg-type]
            raise DataError(f"{path}: {image.mode}-mode samples from {low} to {high}; expected 0 to {ceiling:g}")
        return image.point(lambda value: value * (255.0 / ceiling)).convert("L")
    if image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_srgb(image: Image.Image, gray: bool, path: Path) -> tuple[Image.Image, bytes | None]:
    """RGB or RGBA in sRGB, and the profile to save with it."""
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    profile = image.info.get("icc_profile")
    colour = image.convert("L" if gray else "RGB") if alpha is not None else image
    rgb, icc = convert_profile(colour, profile, path) if profile else (_as_rgb(colour), None)
    if alpha is not None:
        rgb.putalpha(alpha)
    return rgb, icc


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() copies in any case
