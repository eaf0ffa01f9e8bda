"""Distances between two sets of images, from the features that a network has for each: FID and KID.

Only arithmetic on (N, D) arrays of features; float64 throughout.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


class FeatureStatistics:
    """Mean and covariance of features that come in batches; memory does not grow with their number."""

    def __init__(self) -> None:
        self.count = 0
        self._shift = np.zeros(0)
        self._first = np.zeros(0)
        self._second = np.zeros((0, 0))

    def add(self, features: FloatArray) -> None:
        """Take in a batch (B, D). Raises ValueError for another D than before, or values that are not finite."""
        values = np.asarray(features, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("features that are not finite")
        if self.count == 0:
            # Moments about a point near the mean, so that large means cost the covariance no digits.
            self._shift = values.mean(axis=0)
            self._first = np.zeros(values.shape[1])
            self._second = np.zeros((values.shape[1], values.shape[1]))
        if values.shape[1] != len(self._shift):
            raise ValueError(f"features of {values.shape[1]} numbers after features of {len(self._shift)}")
        moved = values - self._shift
        self.count += len(values)
        self._first += moved.sum(axis=0)
        self._second += moved.T @ moved

    @property
    def mean(self) -> FloatArray:
        """(D,)"""
        return self._shift + self._first / self.count

    @property
    def covariance(self) -> FloatArray:
        """(D, D), the unbiased estimate (divided by N - 1). Raises ValueError for less than two features."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, found {self.count}")
        offset = self._first / self.count
        return (self._second - self.count * np.outer(offset, offset)) / (self.count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """FID: the squared 2-Wasserstein distance of the Gaussians of two sets (Heusel et al. 2017, equation 6).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). The trace of the square root is the sum of the square roots of
    the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric; so nothing becomes complex.
    """
    first, second = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = root @ second @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return float(np.square(a.mean - b.mean).sum() + np.trace(first) + np.trace(second) - 2 * cross)


def kernel_distance(a: FloatArray, b: FloatArray) -> float:
    """KID: the unbiased estimate of the squared maximum mean discrepancy of (N, D) and (M, D) features.

    Binkowski et al. 2018, equation 4, with the polynomial kernel (x.y / D + 1)^3. It may be slightly negative. Raises
    ValueError for less than two features a side.
    """
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise ValueError(f"KID needs at least 2 images a side, found {n} and {m}")
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    within_a, within_b = _kernel(first, first), _kernel(second, second)
    same = (within_a.sum() - np.trace(within_a)) / (n * (n - 1)) + (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    return float(same - 2 * _kernel(first, second).mean())


def kernel_distance_of_subsets(
    a: FloatArray, b: FloatArray, subsets: int, size: int, generators: Sequence[np.random.Generator]
) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over `subsets` draws of `size` features a side.

    `generators`: one for each draw. Where a side has no more than `size` features it is taken whole.
    """
    assert len(generators) == subsets
    drawn = [kernel_distance(_drawn(a, size, rng), _drawn(b, size, rng)) for rng in generators]
    return float(np.mean(drawn)), float(np.std(drawn))


def _kernel(a: FloatArray, b: FloatArray) -> FloatArray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _drawn(features: FloatArray, size: int, rng: np.random.Generator) -> FloatArray:
    if len(features) <= size:
        return features
    return features[rng.choice(len(features), size, replace=False)]
