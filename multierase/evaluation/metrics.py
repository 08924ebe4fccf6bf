"""Numbers about an erasure, from what a judge saw: tensors and counts in, numbers out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Share:
    """``right`` of ``count`` pictures, with Wilson's interval at 95 %."""

    right: int
    count: int

    @classmethod
    def of(cls, verdicts: Sequence[bool]) -> Share:
        return cls(sum(verdicts), len(verdicts))

    @property
    def value(self) -> float:
        return self.right / self.count if self.count else math.nan

    def interval(self, z: float = 1.959964) -> tuple[float, float]:
        """Wilson (1927): ``(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)``; it stays within 0 and 1, and is not
        empty where all pictures are right."""
        if not self.count:
            return math.nan, math.nan
        p, n = self.value, self.count
        middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return max((middle - half) / (1 + z**2 / n), 0.0), min((middle + half) / (1 + z**2 / n), 1.0)

    def as_dict(self) -> dict:
        low, high = self.interval()
        return {"value": self.value, "low": low, "high": high, "right": self.right, "count": self.count}


def harmonic_mean(*shares: float) -> float:
    """MACE's overall number (arXiv 2403.06135): of ``1 − erased``, ``kept``, ...; 0 where any is 0."""
    return statistics.harmonic_mean([min(max(share, 0.0), 1.0) for share in shares])


@dataclass(frozen=True)
class Gaussian:
    """What a Fréchet distance knows of pictures: ``(f,)`` mean of their features, and ``(r, f)`` ``factor``, with
    ``Σ = factorᵀ factor``.

    The factor and not ``Σ``: of few pictures of many features most eigenvalues of ``Σ`` are rounding errors, and their
    roots are not small.
    """

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Of ``(n, f)`` features. Raises ``ValueError`` for fewer than two pictures."""
        if len(features) < 2:
            raise ValueError(f"a Fréchet distance needs two pictures or more on either side, given {len(features)}")
        mean = features.mean(axis=0, dtype=np.float64)
        return cls(mean, np.linalg.qr(features - mean, mode="r") / math.sqrt(len(features) - 1))

    @classmethod
    def from_covariance(cls, mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
        """Of ``(f,)`` mean and ``(f, f)`` covariance, as published statistics have them."""
        values, vectors = np.linalg.eigh(np.float64(covariance))
        return cls(np.float64(mean), np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """``‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)`` (FID's, arXiv 1706.08500).

    With ``Σ_a = Aᵀ A`` and ``Σ_b = Bᵀ B``, the trace of the root is the sum of the singular values of ``A Bᵀ``.
    """
    traces = np.square(a.factor).sum() + np.square(b.factor).sum()
    roots = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False)
    return float(max(np.square(a.mean - b.mean).sum() + traces - 2 * roots.sum(), 0.0))


def feature_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``(n,)`` cosine distances of pictures at equal prompts and seeds, 0 to 2."""
    a, b = np.float64(a), np.float64(b)  # so that rows do not depend on where in memory the features are
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return 1 - (a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
