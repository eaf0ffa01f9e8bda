"""Noise: what is left at the finest scale where an image is flattest."""

from collections.abc import Sequence

import numpy as np

from .base import FINDINGS, MAD, WHITE, Found, gray

PATCH = 32  # pixels a side
FLATTEST = 10  # percentile of the patches, so that grass and sand do not count
# In 255ths, of what the channels do not share. 191 photographs, whole and halved: 0 to 1.6, but for film grain (3.2 and
# 3.5) and dense foliage, which is not white; with noise of 5: 3.2 to 5.8.
LEAST_COLOUR = 2.5
# The same of luma, for noise that all channels share, which textures resemble more. With noise of 10: 6.7 or more.
LEAST_GRAY = 3.3
# Noise is white: details twice as large are no stronger. 0.9 to 1.5 with noise of 10, 1.6 to 4.4 in textures.
WHITEST = 1.5
CLIPPED = 16.0  # within so many steps of black and white noise was cut off, so that dark patches say nothing


@FINDINGS.register("noise")
def noise(pieces: Sequence[np.ndarray]) -> Found | None:
    """Amount: the standard deviation in 255ths, of each channel.

    The median absolute deviation of the finest diagonal details (Donoho and Johnstone 1994), of luma and of red minus
    green, in which textures hardly show.
    """
    cut = [piece[: piece.shape[0] // PATCH * PATCH, : piece.shape[1] // PATCH * PATCH] for piece in pieces]
    measured = [_patches(piece) for piece in cut if piece.size]
    if not measured:
        return None
    brightness, *scales = (np.concatenate(values) for values in zip(*measured, strict=True))
    seen = (brightness > CLIPPED) & (brightness < WHITE - CLIPPED)
    if seen.sum() < 2:
        return None
    shared = _if_white(scales[0][seen], scales[1][seen], LEAST_GRAY)
    coloured = _if_white(scales[2][seen], scales[3][seen], LEAST_COLOUR)
    deviation = max(shared, coloured)
    return Found(deviation, f"noise of a deviation of about {deviation:.0f} of {WHITE:.0f}") if deviation else None


def _if_white(fine: np.ndarray, coarse: np.ndarray, least: float) -> float:
    """The deviation of the flattest patches; 0 below `least`, or where larger details are stronger."""
    deviation = float(np.percentile(fine, FLATTEST))
    flat = fine <= np.percentile(fine, 2 * FLATTEST)
    white = np.median(coarse[flat]) <= WHITEST * np.median(fine[flat])
    return deviation if deviation >= least and white else 0.0


def _patches(piece: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of every patch: mean luma; the deviations of the finest details of luma and of those twice as large; both of red
    minus green, as large as each channel's where the noise of these is independent."""
    luma = gray(piece)
    height, width = luma.shape
    brightness = luma.reshape(height // PATCH, PATCH, width // PATCH, PATCH).mean((1, 3)).reshape(-1)
    colour = (piece[..., 0] - piece[..., 1]) * np.float32(WHITE / np.sqrt(2))
    return (brightness, *_at_two_scales(luma), *_at_two_scales(colour))


def _at_two_scales(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = plane.shape
    halved = plane.reshape(height // 2, 2, width // 2, 2).sum((1, 3)) / 2
    return _deviation(plane, PATCH), _deviation(halved, PATCH // 2)


def _deviation(plane: np.ndarray, side: int) -> np.ndarray:
    """(N,) of the patches of `side` pixels, of the diagonal differences of 2x2 pixels."""
    details = (plane[::2, ::2] - plane[1::2, ::2] - plane[::2, 1::2] + plane[1::2, 1::2]) / 2
    half = side // 2
    rows, columns = (length // half for length in details.shape)
    patches = details.reshape(rows, half, columns, half).swapaxes(1, 2).reshape(rows * columns, half * half)
    deviations: np.ndarray = np.median(np.abs(patches), axis=1) / MAD
    return deviations
