"""Salt and pepper: single samples far from all their neighbours."""

from collections.abc import Sequence

import cv2
import numpy as np

from .base import FINDINGS, MAD, WHITE, Found

RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
FAR = 48.0  # of 255, beyond the nearest of the eight neighbours
NOISY = 6.0  # deviations of the surroundings that it must be beyond besides, where there is other noise
# Of 137 photographs, whole, halved and compressed, 0 to 0.17 %; with 1 % of salt and pepper 0.5 to 1 %.
LEAST = 0.003
ENOUGH = 4096  # samples, of which LEAST is a dozen


@FINDINGS.register("impulses")
def impulses(pieces: Sequence[np.ndarray]) -> Found | None:
    """Amount: the share of the samples that stand alone, somewhat less than that of all impulses."""
    planes = [np.ascontiguousarray(piece[..., c]) * np.float32(WHITE) for piece in pieces for c in range(3)]
    samples = sum(plane.size for plane in planes)
    if samples < ENOUGH:
        return None
    share = sum(_alone(plane) for plane in planes) / samples
    return Found(share, f"salt and pepper on about {100 * share:.1f} % of the samples") if share >= LEAST else None


def _alone(plane: np.ndarray) -> int:
    off = np.abs(plane - cv2.medianBlur(plane, 3))
    far = max(FAR, NOISY * float(np.median(off[::4, ::4])) / MAD)
    above, below = plane - cv2.dilate(plane, RING), cv2.erode(plane, RING) - plane
    return int((np.maximum(above, below) > far).sum())
