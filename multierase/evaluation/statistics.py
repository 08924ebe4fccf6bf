"""Numbers about an erasure, from verdicts: tensors and counts in, numbers out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats


@dataclass(frozen=True)
class Share:
    """``right`` of ``count`` pictures, with Wilson's interval at 95 %."""

    right: int
    count: int

    @classmethod
    def of(cls, verdicts: Sequence[bool]) -> Share:
        """Count verdicts."""
        return cls(sum(verdicts), len(verdicts))

    def __add__(self, other: Share) -> Share:
        return Share(self.right + other.right, self.count + other.count)

    @property
    def value(self) -> float:
        """The share, not a number if there are no pictures."""
        return self.right / self.count if self.count else math.nan

    def interval(self) -> tuple[float, float]:
        """Return Wilson's interval (1927); it is not empty where all pictures are right."""
        if not self.count:
            return math.nan, math.nan

        test = scipy.stats.binomtest(self.right, self.count)
        interval = test.proportion_ci(confidence_level=0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def as_dict(self) -> dict:
        """Return the share with the ends of its interval, as plain values."""
        low, high = self.interval()

        return {
            "value": self.value,
            "low": low,
            "high": high,
            "right": self.right,
            "count": self.count,
        }


def harmonic_mean(*shares: float) -> float:
    """Return MACE's overall number (arXiv 2403.06135); 0 if any share is 0.

    Args:
        shares: such as ``1 - remaining`` and what is kept of the base's; more than 1 counts as 1.
    """
    if any(math.isnan(share) for share in shares):
        return math.nan

    return statistics.harmonic_mean([min(max(share, 0.0), 1.0) for share in shares])


@dataclass(frozen=True)
class Gaussian:
    """What a Fréchet distance knows of pictures.

    ``mean``: ``(f,)`` of their features. ``factor``: ``(r, f)`` with ``Σ = factorᵀ factor``. The
    factor and not ``Σ``: for few pictures with many features, most eigenvalues of ``Σ`` are
    rounding errors, and their roots are not small.
    """

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Fit ``(n, f)`` features.

        Raises:
            ValueError: for fewer than two pictures.
        """
        if len(features) < 2:
            raise ValueError(
                "a Fréchet distance needs two pictures or more on either side, given "
                f"{len(features)}"
            )

        # The factor R of features = Q R has RᵀR = featuresᵀ features: Σ is never formed.
        mean = features.mean(axis=0, dtype=np.float64)
        factor = np.linalg.qr(features - mean, mode="r") / math.sqrt(len(features) - 1)
        return cls(mean, factor)

    @classmethod
    def from_covariance(cls, mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
        """Take ``(f,)`` mean and ``(f, f)`` covariance, as published statistics have them."""
        values, vectors = np.linalg.eigh(np.float64(covariance))

        return cls(np.float64(mean), np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return ``‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)`` (FID's, arXiv 1706.08500).

    With ``Σ_a = Aᵀ A`` and ``Σ_b = Bᵀ B``, the trace of the root is the sum of the singular values
    of ``A Bᵀ``.
    """
    traces = np.square(a.factor).sum() + np.square(b.factor).sum()
    roots = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False)

    return float(max(np.square(a.mean - b.mean).sum() + traces - 2 * roots.sum(), 0.0))


def feature_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``(n,)`` cosine distances, 0 to 2, of pictures at equal prompts and seeds."""
    # In float64, so that rows do not depend on where in memory the features are.
    a, b = np.float64(a), np.float64(b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)

    return 1 - (a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)


def mean(values: Sequence[float]) -> float:
    """Return the mean, not a number if there are no values."""
    return math.fsum(values) / len(values) if values else math.nan
