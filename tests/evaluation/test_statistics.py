import math

import numpy as np
import pytest
import scipy.linalg

from multierase.evaluation.statistics import (
    Gaussian,
    Share,
    feature_distances,
    frechet_distance,
    harmonic_mean,
)


def test_frechet_distance_agrees_with_a_plain_rendering():
    chance = np.random.default_rng(0)
    a = chance.normal(size=(200, 6))
    b = chance.normal(size=(150, 6)) @ np.diag([1, 2, 3, 0.5, 1, 1]) + 0.3
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    traces = np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + traces

    here = Gaussian.of(a)
    assert frechet_distance(here, Gaussian.of(b)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(here, here) == pytest.approx(0, abs=1e-6)
    published = Gaussian.from_covariance(b.mean(0), np.cov(b.T))
    assert frechet_distance(here, published) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_in_one_dimension():
    """Of two Gaussians: (μ1 − μ2)² + (σ1 − σ2)²."""
    x = np.array([[-1.0], [1.0]] * 50)
    expected = 25 + 4 * np.var(x, ddof=1)

    found = frechet_distance(Gaussian.of(x), Gaussian.of(3 * x + 5))
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_few_pictures_with_many_features():
    """Σ of 3 f is 9 Σ of f: 1 + 9 − 2 · 3 times its trace; and 296 eigenvalues are 0."""
    few = np.random.default_rng(0).normal(size=(5, 300))
    thrice = Gaussian.of(3 * few - 3 * few.mean(0) + few.mean(0))

    found = frechet_distance(Gaussian.of(few), thrice)
    assert found == pytest.approx(4 * few.var(axis=0, ddof=1).sum(), rel=1e-12)
    with pytest.raises(ValueError, match="two pictures or more"):
        Gaussian.of(few[:1])


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (3, 17), (81, 263), (1, 1)])
def test_wilson_intervals_solve_their_quadratic(right, count):
    """At both ends |p̂ − p| = z √(p(1−p)/n); and they are the closed form's of before."""
    z = 1.959964
    ends = Share(right, count).interval()
    for end in ends:
        if 1e-9 < end < 1 - 1e-9:
            half = z * math.sqrt(end * (1 - end) / count)
            assert abs(right / count - end) == pytest.approx(half, rel=1e-6)

    p, n = right / count, count
    middle = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    closed = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    assert ends == pytest.approx(closed, abs=1e-7)
    assert 0 <= ends[0] < ends[1] <= 1


def test_wilson_interval_as_published():
    low, high = Share(81, 263).interval()
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)  # Newcombe 1998, table I, method 3


def test_shares_are_counted_and_added():
    assert Share.of([True, False, True]) == Share(2, 3) == Share(1, 1) + Share(1, 2)
    assert math.isnan(Share(0, 0).value)
    assert math.isnan(Share(0, 0).interval()[0])


def test_harmonic_mean_is_maces():
    assert harmonic_mean(0.9, 0.6) == pytest.approx(2 / (1 / 0.9 + 1 / 0.6))
    assert harmonic_mean(0.9, 0.0) == 0
    assert harmonic_mean(1.2, 1.0) == 1
    assert math.isnan(harmonic_mean(0.9, math.nan))


def test_feature_distances():
    a = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    b = np.array([[2.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(feature_distances(a, b), [0.0, 2.0, 1.0])
