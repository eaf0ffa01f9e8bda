"""ICC profiles: to sRGB on the way in, valid ones on the way out. Use it through `utils.images`."""

import struct
from functools import cache, lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import ImageCms

from ..utils.console import get_logger, warn_once
from .layers import inks_to_rgb
from .transfer import linear_of

logger = get_logger(__name__)

_WHITE = (0.9642, 1.0, 0.8249)  # D50, the white of ICC's connection space
_CURVE_POINTS = 1024
_SAME = 2  # of 255: the sRGB profiles of different makers differ by 1
_EXACT = 0x0100  # cmsFLAGS_NOOPTIMIZE
_CHANNELS = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}
_CMS_ERRORS = (RuntimeError, ValueError, TypeError)
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
    curve = linear_of(x)
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


@lru_cache(maxsize=64)
def is_srgb(profile: bytes) -> bool:
    """Whether a profile means sRGB, by what it does to colours, whatever its name."""
    if profile[16:20] != b"RGB ":
        return False
    levels = np.array([0, 8, 24, 64, 112, 160, 208, 255], np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    try:
        seen = _transformed(colours, profile)
    except _CMS_ERRORS:
        return False
    return int(np.abs(seen.astype(int) - colours).max()) <= _SAME


def convert_profile(samples: np.ndarray, profile: bytes, path: Path) -> tuple[np.ndarray, bytes | None]:
    """Samples uint8 or uint16 (H, W, 1 gray, 3 RGB or 4 CMYK) in `profile` as RGB (H, W, 3) of the same type in sRGB.

    Also the profile to save with them. One that cannot be used is warned about once, and the samples are taken as sRGB.
    """
    space = profile[16:20]
    if samples.shape[2] == 1 and space == b"RGB ":
        samples = np.repeat(samples, 3, axis=2)
    try:
        if _CHANNELS.get(space) != samples.shape[2]:
            raise ValueError(f"it is for {space.decode('latin-1').strip() or 'no'} pixels of another kind")
        if is_srgb(profile):
            return samples, profile
        if profile == gray_profile():
            return np.repeat(samples, 3, axis=2), srgb_profile()
        return _transformed(samples, profile), srgb_profile()
    except _CMS_ERRORS as error:
        text = f"{path}: its colour profile cannot be used ({error}); taken as sRGB"
        warn_once(logger, f"icc {path}", text)
        return without_profile(samples), None


def without_profile(samples: np.ndarray) -> np.ndarray:
    """Gray, RGB or CMYK samples without a profile as RGB (H, W, 3)."""
    if samples.shape[2] == 1:
        return np.repeat(samples, 3, axis=2)
    return inks_to_rgb(samples) if samples.shape[2] == 4 else samples


def _transformed(samples: np.ndarray, profile: bytes) -> np.ndarray:
    """RGB of the same type in sRGB, by Little CMS, which without its shortcuts is exact to 16 bits."""
    name = {1: "gray", 3: "rgb", 4: "cmyk"}[samples.shape[2]]
    given = np.ascontiguousarray(samples[..., 0] if name == "gray" else samples)
    flags = _EXACT if samples.dtype == np.uint16 else None
    result = imagecodecs.cms_transform(
        given, profile, srgb_profile(), colorspace=name, outcolorspace="rgb", flags=flags
    )
    return np.asarray(result).reshape(*samples.shape[:2], 3)
