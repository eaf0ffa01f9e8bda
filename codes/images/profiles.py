"""ICC profiles: to sRGB on the way in, valid ones on the way out. Use it through `utils.images`."""

import io
import struct
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from ..utils.console import get_logger, warn_once
from .pixels import quantise, to_float

logger = get_logger(__name__)

_WHITE = (0.9642, 1.0, 0.8249)  # D50, the white of ICC's connection space
_CURVE_POINTS = 1024
_DATE = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)  # of every profile made here, so that equal images are equal files


@cache
def srgb_profile() -> bytes:
    """A profile of sRGB for RGB pixels."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data[:24] + _DATE + data[36:]


@cache
def gray_profile() -> bytes:
    """A profile (ICC.1:2001-04, 2.4) of gray with the tone curve of sRGB, IEC 61966-2-1. Pillow can make none."""
    x = np.linspace(0.0, 1.0, _CURVE_POINTS)
    curve = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    name = b"Gray with the sRGB curve\0"
    tags = {
        b"cprt": b"text\0\0\0\0No copyright\0",
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78),
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">I", len(x)) + np.rint(curve * 65535).astype(">u2").tobytes(),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(_WHITE),
    }
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI", start + len(body), 0x02400000) + b"mntrGRAYXYZ " + _DATE + b"acsp"
    return (head + bytes(28) + _fixed(_WHITE)).ljust(128, b"\0") + table + body


def _fixed(values: tuple[float, ...]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def fitted_icc(icc: bytes, gray: bool) -> bytes:
    """A profile for gray or RGB pixels in sRGB: `icc`, which describes sRGB, or its counterpart of the other kind.

    A profile of RGB in a file of one channel is invalid, and readers refuse or ignore it.
    """
    if icc[16:20] == (b"GRAY" if gray else b"RGB "):
        return icc
    return gray_profile() if gray else srgb_profile()


def is_srgb(profile: bytes) -> bool:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return "srgb" in ImageCms.getProfileDescription(source).lower()
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False


def convert_profile(image: Image.Image, profile: bytes, path: Path) -> tuple[Image.Image, bytes | None]:
    """An L, RGB or CMYK image in `profile` as RGB in sRGB, and the profile to save with it.

    A profile that cannot be used is warned about once, and the image is taken as sRGB.
    """
    try:
        if image.mode == "RGB" and is_srgb(profile):
            return image, profile
        if image.mode == "L" and profile == gray_profile():
            return image.convert("RGB"), srgb_profile()
        return _transformed(image, profile, srgb_profile(), "RGB"), srgb_profile()
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        _warn(path, error)
        return image.convert("RGB"), None


def convert_samples(
    samples: np.ndarray, gray: bool, profile: bytes | None, path: Path
) -> tuple[np.ndarray, bytes | None]:
    """16-bit samples (H, W, 3 or 4) in sRGB, and the profile to save with them.

    Gray keeps its 16 bits. ImageCms has no 16-bit colour, so a foreign profile of RGB is converted, and kept, in 8.
    """
    if not profile:
        return samples, None
    if gray and profile[16:20] == b"GRAY":
        return _convert_gray(samples, profile, path)
    eight = quantise(to_float(samples), 8)
    image, icc = convert_profile(Image.fromarray(np.ascontiguousarray(eight[..., :3])), profile, path)
    if icc is None or icc == profile:
        return samples, icc
    return np.concatenate([np.asarray(image), eight[..., 3:]], axis=2), icc


def _convert_gray(samples: np.ndarray, profile: bytes, path: Path) -> tuple[np.ndarray, bytes | None]:
    if profile == gray_profile():
        return samples, srgb_profile()
    # A tone curve, so what it does to each of the 65536 values says everything.
    values = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    try:
        table = np.asarray(_transformed(values, profile, gray_profile(), "I;16")).reshape(-1).astype(np.uint16)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        _warn(path, error)
        return samples, None
    return np.concatenate([table[samples[..., :3]], samples[..., 3:]], axis=2), srgb_profile()


def _transformed(image: Image.Image, source: bytes, target: bytes, mode: str) -> Image.Image:
    given, wanted = (ImageCms.ImageCmsProfile(io.BytesIO(profile)) for profile in (source, target))
    converted = ImageCms.profileToProfile(image, given, wanted, outputMode=mode)
    assert converted is not None
    return converted


def _warn(path: Path, error: Exception) -> None:
    warn_once(logger, f"icc {path}", f"{path}: its colour profile cannot be used ({error}); taken as sRGB")
