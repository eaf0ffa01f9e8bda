"""Image files in and out: the only file that knows Pillow, OpenCV's (w, h), bit depths, alpha, ICC and EXIF.

Everywhere else an image is float32 RGB, (H, W, 3), in [0, 1], sRGB; a tensor is (3, H, W). Height before width.
"""

import io
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from .console import get_logger, warn_once
from .errors import DataError
from .files import atomic_write
from .image_search import find_images as find_images

logger = get_logger(__name__)

WRITERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
MAX_PIXELS = 400_000_000
_ORIENTATION_TAG = 0x0112
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


def read_samples(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """As `read_image`, but the integer samples, uint8 or uint16 (H, W, 3), with transparency laid over white.

    For training: large photographs stay small in memory until a tile of them is converted by `to_float`.
    """
    samples = _decode(Path(path), max_pixels).samples
    if samples.shape[2] == 3:
        return samples
    values = to_float(samples)
    flat = values[..., :3] * values[..., 3:] + (1.0 - values[..., 3:])
    return quantise(flat, 16 if samples.dtype == np.uint16 else 8)


def probe_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Size and mode from the header alone (about 0.1 ms). Raises DataError as `read_image` does."""
    path = Path(path)
    with _reported(path), _open(path, path, max_pixels) as image:
        width, height = image.size
        # Pillow has swapped the sides of a TIFF already, and decodes a whole PNG to look for EXIF behind its pixels.
        skip = image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info)
        turned = not skip and image.getexif().get(_ORIENTATION_TAG) in _ORIENTED_TURNED
        sides = (width, height) if turned else (height, width)
        return ImageInfo(*sides, mode=image.mode, format=image.format or "unknown")


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


def _decode(path: Path, max_pixels: int) -> _Decoded:
    with _reported(path):
        data = path.read_bytes()
        with _open(path, io.BytesIO(data), max_pixels) as image:
            name = image.format or "unknown"
            gray = image.mode in _GRAY_MODES or image.mode.startswith("I;16")
            deep = _is_16_bit(image, data)
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
            if deep:
                samples = _decode_16_bit(data, 1 if name == "TIFF" else orientation)
                samples, icc = _samples_to_srgb(samples, image.info.get("icc_profile"), path)
            else:
                converted, icc = _to_srgb(_plain_mode(ImageOps.exif_transpose(image), path), gray, path)
                samples = np.array(converted)
            return _Decoded(samples, gray, _upright_exif(image), icc, name)


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
    exif = image.getexif()
    if not exif:
        return None
    try:
        if _ORIENTATION_TAG in exif:
            exif[_ORIENTATION_TAG] = 1
        return exif.tobytes()
    except _DECODE_ERRORS:
        return None  # A camera's malformed tags are no reason to refuse its picture.


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
    rgb, icc = _convert_profile(colour, profile, path) if profile else (colour.convert("RGB"), None)
    if alpha is not None:
        rgb.putalpha(alpha)
    return rgb, icc


def _convert_profile(image: Image.Image, profile: bytes, path: Path) -> tuple[Image.Image, bytes | None]:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower() and image.mode == "RGB":
            return image, profile
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        assert converted is not None
        return converted, target.tobytes()
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        warn_once(logger, f"icc {path}", f"{path}: its colour profile cannot be used ({error}); taken as sRGB")
        return image.convert("RGB"), None


def _samples_to_srgb(samples: np.ndarray, profile: bytes | None, path: Path) -> tuple[np.ndarray, bytes | None]:
    """16-bit samples in sRGB. ImageCms has no 16-bit colour, so a foreign profile is converted (and kept) in 8 bits."""
    if not profile:
        return samples, None
    eight = quantise(to_float(samples), 8)
    image, icc = _convert_profile(Image.fromarray(np.ascontiguousarray(eight[..., :3])), profile, path)
    if icc is None or icc == profile:
        return samples, icc
    return np.concatenate([np.asarray(image), eight[..., 3:]], axis=2), icc


def to_float(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 samples to float32 in [0, 1], same shape."""
    return samples.astype(np.float32) * np.float32(1.0 / np.iinfo(samples.dtype).max)


def quantise(values: np.ndarray, bit_depth: int = 8) -> np.ndarray:
    """float in [0, 1] to uint8 or uint16, rounded; clipped first, so nothing wraps around. NaN becomes 0."""
    dtype, top = (np.uint16, 65535) if bit_depth == 16 else (np.uint8, 255)
    return np.rint(np.nan_to_num(np.clip(values, 0.0, 1.0), nan=0.0) * np.float32(top)).astype(dtype)


def to_tensor(rgb: np.ndarray, n1_to_1: bool) -> torch.Tensor:
    """(H, W, 3) float in [0, 1], or uint8/uint16, to a float32 tensor (3, H, W) in [-1, 1] (n1_to_1) or [0, 1]."""
    values = to_float(rgb) if np.issubdtype(rgb.dtype, np.integer) else rgb.astype(np.float32)
    if n1_to_1:
        values = values * np.float32(2.0) - np.float32(1.0)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def to_rgb(tensor: torch.Tensor, n1_to_1: bool) -> np.ndarray:
    """A tensor (3, H, W) to float32 (H, W, 3), clipped to [0, 1]."""
    values = tensor.detach().to("cpu", torch.float32).numpy().transpose(1, 2, 0)
    if n1_to_1:
        values = values * np.float32(0.5) + np.float32(0.5)
    return np.ascontiguousarray(np.clip(values, 0.0, 1.0))


def to_image(tensor: torch.Tensor, n1_to_1: bool) -> np.ndarray:
    """A tensor (3, H, W) to uint8 (H, W, 3): clipped, then rounded."""
    return quantise(to_rgb(tensor, n1_to_1))


def resize_area(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Downsample float32 (H, W, 3) by area (each new pixel is the mean of what it covers). Enlarging is refused."""
    if height > rgb.shape[0] or width > rgb.shape[1]:
        raise ValueError(f"area resize cannot enlarge {rgb.shape[0]}x{rgb.shape[1]} to {height}x{width}")
    if (height, width) == rgb.shape[:2]:
        return rgb.copy()
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


def resize_bicubic(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic, float32, clipped to [0, 1].

    a = -0.5 and antialiased when it shrinks: Pillow's kernel, the field's usual baseline.
    """
    channels = np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32)
    planes = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in channels]
    return np.clip(np.stack([np.asarray(plane) for plane in planes], axis=2), 0.0, 1.0)


def jpeg_round_trip(rgb: np.ndarray, quality: int) -> np.ndarray:
    """Save float32 (H, W, 3) in [0, 1] as a JPEG (4:2:0) in memory and read it back."""
    bgr = cv2.cvtColor(quantise(rgb), cv2.COLOR_RGB2BGR)
    encoded = _encode(".jpg", bgr, cv2.IMWRITE_JPEG_QUALITY, quality)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return to_float(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def write_image(
    path: str | Path,
    image: np.ndarray,
    *,
    quality: int = 95,
    bit_depth: int = 8,
    alpha: np.ndarray | None = None,
    exif: bytes | None = None,
    icc: bytes | None = None,
) -> None:
    """Write (H, W, 3), float in [0, 1] or uint8 or uint16, atomically as PNG, JPEG, WebP or TIFF by the suffix.

    `quality` 1..100 for JPEG and WebP (100: lossless WebP). `alpha` (H, W) of the dtype of `image`, not for JPEG.
    `bit_depth=16` is for PNG and TIFF; such files carry no metadata and no profile, which means sRGB.
    """
    path = Path(path)
    name = WRITERS.get(path.suffix.lower())
    if name is None:
        raise DataError(
            f"{path}: cannot write {path.suffix or 'a name without suffix'}; use one of {', '.join(WRITERS)}"
        )
    if alpha is not None:
        if name == "JPEG":
            raise DataError(f"{path}: JPEG holds no transparency; write PNG, WebP or TIFF")
        image = np.concatenate([image, alpha[..., None]], axis=2)
    if bit_depth == 16:
        if name not in ("PNG", "TIFF"):
            raise DataError(f"{path}: {name} holds 8 bits; write 16 bits as PNG or TIFF")
        data = _encode_16_bit(path.suffix.lower(), _as_depth(image, 16))
    else:
        data = _encode_8_bit(name, _as_depth(image, 8), quality, exif, icc)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _as_depth(image: np.ndarray, bit_depth: int) -> np.ndarray:
    if image.dtype == (np.uint16 if bit_depth == 16 else np.uint8):
        return image
    return quantise(to_float(image) if np.issubdtype(image.dtype, np.integer) else image, bit_depth)


def _encode_8_bit(name: str, samples: np.ndarray, quality: int, exif: bytes | None, icc: bytes | None) -> bytes:
    options: dict[str, Any] = {"exif": exif, "icc_profile": icc}
    if name == "JPEG":
        options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    elif name == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
    elif name == "TIFF":
        options |= {"compression": "tiff_adobe_deflate"}
    buffer = io.BytesIO()
    given = {key: value for key, value in options.items() if value is not None}
    Image.fromarray(np.ascontiguousarray(samples)).save(buffer, name, **given)
    return buffer.getvalue()


def _encode_16_bit(suffix: str, samples: np.ndarray) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if samples.shape[2] == 4 else cv2.COLOR_RGB2BGR
    return _encode(suffix, cv2.cvtColor(samples, order)).tobytes()


def _encode(suffix: str, bgr: np.ndarray, *parameters: int) -> np.ndarray:
    done, encoded = cv2.imencode(suffix, bgr, parameters)
    assert done, f"OpenCV failed to encode {suffix}"
    return encoded
