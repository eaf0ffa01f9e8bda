import itertools

import numpy as np
import pytest
from scipy.linalg import sqrtm

from codes.evaluation.evaluators.feature_statistics import (
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
    kernel_distance_of_subsets,
)


def statistics(features: np.ndarray, batch: int = 7) -> FeatureStatistics:
    moments = FeatureStatistics()
    for start in range(0, len(features), batch):
        moments.add(features[start : start + batch])
    return moments


def gaussian(mean: np.ndarray, covariance: np.ndarray, count: int = 50) -> FeatureStatistics:
    """Features whose mean and covariance are exactly these."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((count, len(mean)))
    values -= values.mean(axis=0)
    values = values @ np.linalg.inv(np.linalg.cholesky(np.cov(values.T))).T
    return statistics(values @ np.linalg.cholesky(covariance).T + mean)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_a_stream_are_numpys(offset: float) -> None:
    features = np.random.default_rng(1).random((41, 6)) + offset
    moments = statistics(features)
    assert moments.count == 41
    assert np.allclose(moments.mean, features.mean(axis=0), rtol=1e-12)
    assert np.allclose(moments.covariance, np.cov(features.T), rtol=1e-6)


def test_what_is_no_feature_is_refused() -> None:
    moments = statistics(np.ones((4, 3)))
    with pytest.raises(ValueError, match="features of 5 numbers after features of 3"):
        moments.add(np.ones((2, 5)))
    with pytest.raises(ValueError, match="not finite"):
        moments.add(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="at least 2 images, found 1"):
        _ = statistics(np.ones((1, 3))).covariance


def test_fid_of_two_gaussians_with_diagonal_covariances_is_the_closed_form() -> None:
    m_a, m_b = np.array([0.0, 1.0, -2.0]), np.array([1.0, 1.0, 2.0])
    s_a, s_b = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.04])
    expected = np.square(m_a - m_b).sum() + np.square(np.sqrt(s_a) - np.sqrt(s_b)).sum()
    fid = frechet_distance(gaussian(m_a, np.diag(s_a)), gaussian(m_b, np.diag(s_b)))
    assert fid == pytest.approx(expected, rel=1e-9)


def test_fid_of_covariances_that_do_not_commute_is_that_of_the_matrix_root() -> None:
    rng = np.random.default_rng(2)
    first, second = (factor @ factor.T + 0.1 * np.eye(5) for factor in rng.standard_normal((2, 5, 5)))
    expected = np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    fid = frechet_distance(gaussian(np.zeros(5), first), gaussian(np.zeros(5), second))
    assert fid == pytest.approx(expected, rel=1e-9)


def test_fid_of_a_set_with_itself_is_zero_and_is_symmetric_also_with_fewer_images_than_features() -> None:
    rng = np.random.default_rng(3)
    few, others = statistics(rng.random((6, 20))), statistics(rng.random((9, 20)))
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(few, others) == pytest.approx(frechet_distance(others, few), rel=1e-6)
    assert frechet_distance(few, others) > 0


def test_kid_is_the_unbiased_sum_over_pairs() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random((7, 4)), rng.random((5, 4)) + 0.3

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / 4 + 1) ** 3

    def within(values: np.ndarray) -> float:
        pairs = [kernel(x, y) for x, y in itertools.permutations(values, 2)]
        return sum(pairs) / len(pairs)

    across = [kernel(x, y) for x in a for y in b]
    expected = within(a) + within(b) - 2 * sum(across) / len(across)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance_of_subsets(a, b, 1, 100, [rng]) == (pytest.approx(expected, rel=1e-12), 0.0)
    with pytest.raises(ValueError, match="at least 2 images a side, found 1 and 5"):
        kernel_distance(a[:1], b)


def test_kid_of_subsets_of_one_distribution_is_zero_on_average_and_repeatable() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 400, 3))

    def draws() -> list[np.random.Generator]:
        return [np.random.default_rng(number) for number in range(60)]

    mean, spread = kernel_distance_of_subsets(a, b, 60, 40, draws())
    assert abs(mean) < spread
    assert (mean, spread) == kernel_distance_of_subsets(a, b, 60, 40, draws())
    assert kernel_distance_of_subsets(a, b + 1, 60, 40, draws())[0] > 10 * abs(mean)
