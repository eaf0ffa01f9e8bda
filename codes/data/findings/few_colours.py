"""Palettes and posterised pictures: far fewer values than a photograph has."""

from collections.abc import Sequence

import numpy as np

from .base import FINDINGS, WHITE, Found

LOOKED_AT = 32768  # samples, evenly spread
ENOUGH = 4096  # below, a photograph may have as few
MOST_COLOURS = 300  # a palette has 256; 137 photographs 500 and more, but for those that are palettes
SPAN = 48  # levels between the darkest and the brightest hundredth: an almost flat picture has few by nature
# Share of the levels of a span that occur: 0.75 to 1 of 137 photographs and of gray ones, 0.13 of 32 levels.
MOST_LEVELS = 0.3


@FINDINGS.register("palette")
def palette(pieces: Sequence[np.ndarray]) -> Found | None:
    """Amount: 256 over the number of different colours; of pictures in colour."""
    samples = _samples(pieces)
    if samples is None or _is_gray(samples) or max(_levels(channel)[1] for channel in samples.T) < SPAN:
        return None
    colours = len(np.unique(samples @ np.array([65536, 256, 1])))
    return Found(256 / colours, f"only {colours} different colours (a palette)") if colours <= MOST_COLOURS else None


@FINDINGS.register("levels")
def levels(pieces: Sequence[np.ndarray]) -> Found | None:
    """Amount: steps of 8 bits from one level to the next; of pictures whose channels all have gaps."""
    samples = _samples(pieces)
    if samples is None:
        return None
    counted = [_levels(channel) for channel in samples.T]
    if max(span for _, span in counted) < SPAN:
        return None
    share = max(occur / span for occur, span in counted if span >= SPAN)
    if share > MOST_LEVELS:
        return None
    return Found(1 / share, f"only about {share * 256:.0f} levels a channel (posterised)")


def _samples(pieces: Sequence[np.ndarray]) -> np.ndarray | None:
    """int64 (N, 3) in [0, 255]; None where there are too few."""
    pixels = np.concatenate([piece.reshape(-1, 3) for piece in pieces])
    if len(pixels) < ENOUGH:
        return None
    return np.rint(pixels[:: -(-len(pixels) // LOOKED_AT)] * WHITE).astype(np.int64)


def _levels(channel: np.ndarray) -> tuple[int, int]:
    """How many levels occur between the darkest and the brightest hundredth of the samples, and of how many."""
    counts = np.bincount(channel, minlength=256)
    low, high = np.searchsorted(np.cumsum(counts) / counts.sum(), (0.01, 0.99))
    return int((counts[low : high + 1] > 0).sum()), int(high - low + 1)


def _is_gray(samples: np.ndarray) -> bool:
    return bool((samples == samples[:, :1]).all())
