"""Pictures that were enlarged: repeated pixels, or differences that recur with the grid of the smaller picture."""

from collections.abc import Sequence

import cv2
import numpy as np

from .base import FINDINGS, Found, gray

LENGTH = 256  # of the spectra
FREQUENCIES = np.fft.rfftfreq(LENGTH)  # cycles a pixel
SLOWEST = 0.14  # the content of images has peaks of its own below
ORDERS = (2, 3)  # of differences: a factor of 2 shows in odd ones alone, one of 4 best in even ones
SURROUNDINGS = (17, 5)  # pixels along and across, by whose differences each is divided
BLOCKS = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # harmonics of a JPEG's blocks
# How far a peak must stand above the median of the spectrum, where the common factors lie and elsewhere, and the most
# that fine details may be of coarse ones, which an enlargement leaves none of. docs/measurements.md has how often
# photographs, whole, halved, compressed and blurred, go so far (1 %), and enlarged ones (92 % and more).
COMMON = (1 / 2, 1 / 3, 1 / 4)
NEAR = 1.6 / LENGTH
LEAST_COMMON, LEAST_OTHER = 25.0, 90.0
FINE, COARSE, MOST_FINE = (0.35, 0.5), (0.08, 0.16), 0.1
# A frequency f is that of a factor 1 / f or 1 / (1 - f): the details between their limits tell, but for bilinear
# kernels, whose factor of 3 may be called 1.5.
BETWEEN, BELOW, MOST_BETWEEN = (0.22, 0.28), (0.1, 0.14), 0.063
LEAST_SIDE = 64  # pixels
SMALLEST = 1.2  # factor
LEAST_CHANGES = 16  # along a picture of repeated pixels: less is a flat one
FLAT = 0.5  # of 255: no change


@FINDINGS.register("enlarged")
def enlarged(pieces: Sequence[np.ndarray]) -> Found | None:
    """Amount: the factor.

    Interpolation makes some differences of neighbours smaller than others, periodically: Gallagher 2005, "Detection of
    linear and cubic interpolation in JPEG compressed images".
    """
    planes = [gray(piece[:LENGTH, :LENGTH]) for piece in pieces if min(piece.shape[:2]) >= LEAST_SIDE]
    repeats = [factor for plane in planes if (factor := _repeats(plane)) is not None]
    if repeats and min(repeats) >= SMALLEST:
        factor = float(np.median(repeats))
        return Found(factor, f"repeated pixels, as if it had been enlarged about {factor:.1f} times without smoothing")
    found = _interpolated(planes) if planes else None
    if found is None or found < SMALLEST:
        return None
    return Found(found, f"no fine details, as if it had been enlarged about {found:.1f} times")


def _repeats(plane: np.ndarray) -> float | None:
    """Pixels from one change to the next, where the changes along both axes come at equal distances; 1 where they do
    not, None for a flat picture."""
    factors = []
    for values in (plane, plane.T):
        changes = np.flatnonzero((np.abs(np.diff(values, axis=1)) > FLAT).any(0))
        if len(changes) < LEAST_CHANGES:
            return None
        gaps = np.diff(changes)
        factors.append(float(gaps.mean()) if gaps.max() - gaps.min() <= 1 else 1.0)
    return sum(factors) / 2 if max(factors) < SMALLEST * min(factors) else 1.0


def _interpolated(planes: Sequence[np.ndarray]) -> float | None:
    """The factor by the highest peak that both axes share; None without a sure one."""
    if _band(planes, FINE) > MOST_FINE * _band(planes, COARSE):
        return None
    width = -(-2 * LENGTH // min(min(plane.shape) for plane in planes)) + 1  # of a peak, in bins
    best, where, quarter = 0.0, 0.0, 0.0
    for order in ORDERS:
        along, across = (_spectrum(planes, order, axis) for axis in (1, 0))
        heights = _without_blocks(np.minimum(along, across), width)
        peak = int(heights.argmax())
        frequency = float(FREQUENCIES[peak])
        common = any(abs(frequency - one) < NEAR for one in COMMON)
        relative = float(heights[peak]) / (LEAST_COMMON if common else LEAST_OTHER)
        quarter = max(quarter, float(heights[LENGTH // 4]))
        if relative > best:
            best, where = relative, frequency
    return _factor(planes, where, quarter) if best >= 1 else None


def _factor(planes: Sequence[np.ndarray], frequency: float, quarter: float) -> float | None:
    """The factor of a peak, with the height at a quarter, to which a half may be the harmonic.

    None where a picture that was a JPEG was shrunk to a half: its blocks recur after 4 pixels.
    """
    frequency = next((one for one in COMMON if abs(frequency - one) < NEAR), frequency)
    if frequency == 1 / 2:
        return 4.0 if quarter >= LEAST_COMMON else 2.0
    if _band(planes, BETWEEN) < MOST_BETWEEN * _band(planes, BELOW):
        return 1 / frequency
    return None if frequency == 1 / 4 else 1 / (1 - frequency)


def _spectrum(planes: Sequence[np.ndarray], order: int, axis: int) -> np.ndarray:
    """(F,) in medians: of the sizes of differences along an axis, each in relation to its surroundings; the highest of
    three neighbours, because the axes may differ by one."""
    total = np.zeros(len(FREQUENCIES))
    for plane in planes:
        turned = np.ascontiguousarray(plane if axis == 1 else plane.T)
        sizes = np.abs(np.diff(turned, order, axis=1))
        signal = (sizes / (cv2.blur(sizes, SURROUNDINGS) + FLAT)).mean(0)
        total += _power(signal - signal.mean())
    padded = np.pad(total / max(float(np.median(total[FREQUENCIES > SLOWEST])), 1e-12), 1, mode="edge")
    return np.maximum.reduce([padded[:-2], padded[1:-1], padded[2:]])


def _without_blocks(heights: np.ndarray, width: int) -> np.ndarray:
    """Peaks that the blocks of a JPEG explain taken away: its odd harmonics, and what of the even ones is no higher."""
    cleaned = np.where(FREQUENCIES > SLOWEST, heights, 0.0)
    middles = [round(one * LENGTH) for one in BLOCKS]
    blocks = max(1.0, heights[middles[0]], heights[middles[2]])
    for middle, odd in zip(middles, (True, False, True, False), strict=True):
        near = slice(max(middle - width, 0), middle + width + 1)
        cleaned[near] = 0.0 if odd else cleaned[near] / blocks
    return cleaned


def _band(planes: Sequence[np.ndarray], band: tuple[float, float]) -> float:
    """Mean power between two frequencies, along both axes."""
    low, high = band
    inside = (low <= FREQUENCIES) & (high > FREQUENCIES)
    powers = [_power(turned - turned.mean(1, keepdims=True)) for plane in planes for turned in (plane, plane.T)]
    return float(np.mean([power[inside].mean() for power in powers]))


def _power(values: np.ndarray) -> np.ndarray:
    """(F,) power spectrum along the last axis, the mean over the others."""
    window = np.hanning(values.shape[-1])
    power = np.abs(np.fft.rfft(values * window, LENGTH)) ** 2 / np.square(window).sum()
    return power.reshape(-1, power.shape[-1]).mean(0)
