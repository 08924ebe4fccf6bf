import math

import numpy as np
import pytest
import scipy.linalg

from multierase.evaluation.metrics import Gaussian, Share, feature_distances, frechet_distance, harmonic_mean


def test_frechet_distance_agrees_with_a_plain_rendering():
    chance = np.random.default_rng(0)
    a, b = chance.normal(size=(200, 6)), chance.normal(size=(150, 6)) @ np.diag([1, 2, 3, 0.5, 1, 1]) + 0.3
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(Gaussian.of(a), Gaussian.of(a)) == pytest.approx(0, abs=1e-6)
    # two Gaussians in one dimension: (μ1 − μ2)² + (σ1 − σ2)²
    x = np.array([[-1.0], [1.0]] * 50)
    assert frechet_distance(Gaussian.of(x), Gaussian.of(3 * x + 5)) == pytest.approx(
        25 + 4 * np.var(x, ddof=1), rel=1e-9
    )
    published = Gaussian.from_covariance(b.mean(0), np.cov(b.T))
    assert frechet_distance(Gaussian.of(a), published) == pytest.approx(expected, rel=1e-9)
    few = chance.normal(size=(5, 300))  # Σ of 3 f is 9 Σ of f: 1 + 9 - 2 * 3 times its trace; and 296 eigenvalues are 0
    thrice = Gaussian.of(3 * few - 3 * few.mean(0) + few.mean(0))
    assert frechet_distance(Gaussian.of(few), thrice) == pytest.approx(4 * few.var(axis=0, ddof=1).sum(), rel=1e-12)
    with pytest.raises(ValueError, match="two pictures or more"):
        Gaussian.of(a[:1])


def test_wilson_intervals_are_those_of_the_quadratic_they_solve():
    z = 1.959964
    for right, count in ((0, 10), (10, 10), (3, 17), (81, 263)):
        low, high = Share(right, count).interval()
        for bound in (
            bound for bound in (low, high) if 1e-9 < bound < 1 - 1e-9
        ):  # |p̂ − p| = z √(p(1−p)/n) at both ends
            assert abs(right / count - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / count), rel=1e-6)
    low, high = Share(81, 263).interval()
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)  # Newcombe 1998, table I, method 3
    assert math.isnan(Share(0, 0).value) and Share.of([True, False, True]) == Share(2, 3)


def test_harmonic_mean_is_maces():
    assert harmonic_mean(0.9, 0.6) == pytest.approx(2 / (1 / 0.9 + 1 / 0.6))
    assert harmonic_mean(0.9, 0.0) == 0 and harmonic_mean(1.2, 1.0) == 1


def test_feature_distances():
    a, b = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), np.array([[2.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(feature_distances(a, b), [0.0, 2.0, 1.0])
