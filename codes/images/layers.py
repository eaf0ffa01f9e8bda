"""Samples as image files store them, and what brings them to the usual scale: bits, inks, transparency."""

from dataclasses import dataclass

import numpy as np

from .pixels import quantise, to_float
from .transfer import srgb_of

_SLACK = 1e-3  # how far floats may leave [0, 1], as resampling makes them do
_ROWS = 2**20  # samples that are worked on at once in floats
# XYZ (D50) to linear sRGB: IEC 61966-2-1's primaries, adapted to D50 by Bradford's method.
_XYZ_TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])


class Refused(ValueError):
    """Why a file is not read, in words for its user: it is damaged, or of a layout that cannot be read right."""


@dataclass(frozen=True)
class Layers:
    """Samples uint8 or uint16 (H, W, colours + alpha); 0 is black, the type's maximum white.

    colours: 1 gray, 3 RGB, 4 CMYK (0 is no ink). `alpha`: the last channel is transparency, not premultiplied.
    """

    samples: np.ndarray
    colours: int
    alpha: bool


def scaled(values: np.ndarray, top: int) -> np.ndarray:
    """Integers whose white is `top`, 1..65535, as uint8 (top up to 255) or uint16 of full range, same shape.

    Raises Refused for values above `top`.
    """
    kind = np.dtype(np.uint8 if top <= 255 else np.uint16)
    full = 255 if top <= 255 else 65535
    if values.size and int(values.max()) > top:
        raise Refused(f"damaged: samples of up to {int(values.max())}, but its header says that {top} is white")
    if top == full:
        return values.astype(kind)
    table = np.rint(np.arange(top + 1) * (full / top)).astype(kind)
    return table[values]


def from_long(values: np.ndarray) -> np.ndarray:
    """uint32 or uint64 of full range as uint16. Raises Refused where nothing shows that the range is used."""
    top = int(np.iinfo(values.dtype).max)
    largest = int(values.max()) if values.size else 0
    if 0 < largest <= 65535:
        raise Refused(
            f"{8 * values.dtype.itemsize}-bit samples of up to {largest}: which value is white is not known; "
            "convert it to 8 or 16 bits"
        )
    return np.rint(values * (65535.0 / top)).astype(np.uint16)


def from_floats(values: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as uint16, same shape. Raises Refused for others, NaN among them."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise Refused(f"floating-point samples from {low:g} to {high:g}; expected 0 to 1, so convert it to 16 bits")
    return quantise(values.astype(np.float32), 16)


def inverted(values: np.ndarray) -> np.ndarray:
    """Unsigned samples of which 0 is white."""
    return np.iinfo(values.dtype).max - values


def unpremultiplied(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (H, W, C + 1) whose colours were multiplied by the last channel, without that."""
    bits = 8 * samples.dtype.itemsize
    result = np.empty_like(samples)
    rows = max(_ROWS // max(samples.shape[1] * samples.shape[2], 1), 1)
    for top in range(0, len(samples), rows):
        part = to_float(samples[top : top + rows])
        alpha = part[..., -1:]
        np.divide(part[..., :-1], alpha, out=part[..., :-1], where=alpha > 0)
        result[top : top + rows] = quantise(part, bits)
    result[..., -1] = samples[..., -1]
    return result


def inks_to_rgb(inks: np.ndarray) -> np.ndarray:
    """CMYK (H, W, 4) without a profile as RGB of the same type: every ink takes away its share of light."""
    full = int(np.iinfo(inks.dtype).max)
    light = (full - inks).astype(np.uint32)
    return ((light[..., :3] * light[..., 3:] + full // 2) // full).astype(inks.dtype)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D50), floats (H, W, 3) of L 0..100 and a, b, as uint16 sRGB; colours outside sRGB are clipped."""
    result = np.empty(lab.shape, np.uint16)
    rows = max(_ROWS // max(lab.shape[1] * 3, 1), 1)
    for top in range(0, len(lab), rows):
        part = lab[top : top + rows].astype(np.float64)
        y = (part[..., 0] + 16) / 116
        steps = np.stack([y + part[..., 1] / 500, y, y - part[..., 2] / 200], axis=-1)
        xyz = _D50 * np.where(steps > 6 / 29, steps**3, 3 * (6 / 29) ** 2 * (steps - 4 / 29))
        result[top : top + rows] = np.rint(srgb_of(np.clip(xyz @ _XYZ_TO_SRGB.T, 0.0, 1.0)) * 65535)
    return result
