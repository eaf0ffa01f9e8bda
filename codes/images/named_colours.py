"""Colours that a file names by number instead of an ICC profile: PNG's cICP, gAMA and cHRM, the nclx of AVIF and HEIC.

The numbers are those of ITU-T H.273. What is sRGB, or says nothing, needs no profile; HDR curves are refused.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import imagecodecs
import numpy as np

from .layers import Refused
from .transfer import linear_of

_WHITE = (0.3127, 0.3290)  # D65, that of all primaries below
_BT709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES = {1: _BT709, 9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046), 12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)}
_HDR = {16: "PQ", 18: "HLG"}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # every other curve is shown as sRGB's
_USUAL = 1 / 2.2  # the gAMA of sRGB, and how far others are from it before they count
_FAR = 0.03


def numbered_profile(primaries: int, transfer: int, kind: str) -> bytes | None:
    """An ICC profile of RGB with these primaries and curve; None for sRGB and for numbers that say nothing.

    Raises Refused for an HDR curve, which stands for light that sRGB does not have.
    """
    if transfer in _HDR:
        raise Refused(f"{kind} in the HDR curve {_HDR[transfer]}, which is not read; convert it to SDR")
    gamma = _GAMMAS.get(transfer)
    if gamma is None and primaries not in (9, 12):
        return None
    return _profile(_PRIMARIES.get(primaries, _BT709), _WHITE, gamma)


def png_profile(info: Mapping[Any, Any], data: bytes) -> bytes | None:
    """The profile that a PNG without ICC names by cICP, else by gAMA and cHRM unless it says sRGB (PNG 3, 4.3)."""
    place = data.find(b"cICP", 0, data.find(b"IDAT"))
    if place >= 0:
        return numbered_profile(data[place + 4], data[place + 5], "PNG")
    gamma, corners = info.get("gamma"), info.get("chromaticity")
    if "srgb" in info or not isinstance(gamma, float) or not 0.1 <= gamma <= 10:
        return None
    curve = None if abs(gamma - _USUAL) < _FAR else 1 / gamma
    named = isinstance(corners, tuple) and len(corners) == 8 and all(0 < value < 1 for value in corners)
    white, primaries = (corners[:2], corners[2:]) if named and corners else (_WHITE, _BT709)
    usual = np.allclose((*white, *primaries), (*_WHITE, *_BT709), atol=0.005)
    return None if curve is None and usual else _profile(tuple(primaries), tuple(white), curve)


@lru_cache(maxsize=64)
def _profile(primaries: tuple[float, ...], white: tuple[float, ...], gamma: float | None) -> bytes | None:
    """With the curve of sRGB (IEC 61966-2-1) where there is no gamma; None for primaries that span no colours."""
    curve = linear_of(np.linspace(0.0, 1.0, 4096)) if gamma is None else None
    table = None if curve is None else np.rint(curve * 65535).astype(np.uint16)
    try:
        made = imagecodecs.cms_profile(
            "rgb", whitepoint=white, primaries=primaries, gamma=gamma, transferfunction=table
        )
    except (RuntimeError, ValueError):
        return None
    return bytes(made)
