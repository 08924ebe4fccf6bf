"""What instruments observe of one set's pictures, and how it compares with the base's."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from multierase.evaluation.attacks.run import Attacked
from multierase.evaluation.statistics import Gaussian, feature_distances, frechet_distance
from multierase.evaluation.suites import Suite
from multierase.pictures import to_picture

THUMBNAIL = 128  # pixels at most
DIGITS = 6  # of stored distances and measures


@dataclass(frozen=True)
class Observations:
    """What was observed of one set's pictures, in the order of the suite's cases.

    ``seen``: by kind of label a class for each case. ``features``: ``(n, f)`` of the judge,
    ``None`` if it has none. ``thumbnails``: small pictures by case number. ``counts``,
    ``measures``: by name a number for each case, or ``None``. ``frechet_features``: only if they
    are not the judge's own. ``attacked``: what attacks on the erased concepts came to.
    """

    seen: Mapping[str, Sequence[str]]
    features: np.ndarray | None
    thumbnails: Mapping[int, bytes]
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    measures: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    frechet_features: np.ndarray | None = None
    attacked: Sequence[Attacked] = ()

    @classmethod
    def join(cls, parts: Sequence[Observations]) -> Observations:
        """Put batches together, one after another."""
        thumbnails: dict[int, bytes] = {}
        for part in parts:
            thumbnails |= part.thumbnails

        return cls(
            seen=_joined([part.seen for part in parts]),
            features=_stacked([part.features for part in parts]),
            thumbnails=thumbnails,
            counts=_joined([part.counts for part in parts]),
            measures=_joined([part.measures for part in parts]),
            frechet_features=_stacked([part.frechet_features for part in parts]),
        )

    def comparable_features(self) -> np.ndarray | None:
        """Return the ``(n, f)`` features of which Fréchet distances are made."""
        return self.features if self.frechet_features is None else self.frechet_features


def _joined(columns: Sequence[Mapping[str, Sequence]]) -> dict[str, list]:
    found = {}
    for name in columns[0]:
        found[name] = [one for part in columns for one in part[name]]

    return found


def _stacked(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    return None if arrays[0] is None else np.concatenate(arrays)


def thumbnail(image: torch.Tensor) -> bytes:
    """Return a ``(3, h, w)`` picture in [0, 1], small, as a WebP file."""
    picture = to_picture(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))

    data = io.BytesIO()
    picture.save(data, "WEBP", quality=85)
    return data.getvalue()


class Picture(NamedTuple):
    """What was found in one picture.

    The classes that the judge saw, the distance to the base's picture, and by name what was counted
    and measured.
    """

    seen: Mapping[str, str]
    distance: float | None
    counts: Mapping[str, int]
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """One set's pictures by case number, compared with the base's own and with real ones."""

    pictures: Mapping[int, Picture]
    frechet_distance: float | None = None
    reference_distance: float | None = None


class Comparison:
    """What sets are compared with: the base's own pictures, and real ones if there are any.

    Args:
        features, frechet_features: the base's, in the order of the case numbers.
        reference: of real pictures.
    """

    def __init__(
        self,
        features: np.ndarray | None,
        frechet_features: np.ndarray | None,
        reference: Gaussian | None = None,
    ):
        self.features, self.frechet_features = features, frechet_features
        self.reference = reference

    @classmethod
    def with_base(
        cls, suite: Suite, base: Observations, reference: Gaussian | None = None
    ) -> Comparison:
        """Compare with the base's observations."""
        order = case_order(suite)

        return cls(ordered(base.features, order), ordered(base.frechet_features, order), reference)

    @cached_property
    def _of_base(self) -> Gaussian:
        # FID's features where they were asked for, else the judge's.
        own = self.features if self.frechet_features is None else self.frechet_features

        return Gaussian.of(own)

    def outcome(self, suite: Suite, erased: Sequence[str], observations: Observations) -> Outcome:
        """Compare one set's observations; the base itself has no distance to the base."""
        order = case_order(suite)
        distances: Sequence[float | None] = [None] * len(order)
        if erased and observations.features is not None:
            own = observations.features[order]
            distances = feature_distances(own, self.features).round(DIGITS).tolist()

        pictures = {}
        for index, distance in zip(order, distances, strict=True):
            pictures[suite.cases[index].number] = Picture(
                _of_case(observations.seen, index),
                distance,
                _of_case(observations.counts, index),
                _of_case(observations.measures, index),
            )

        return Outcome(pictures, *self._frechet(erased, observations.comparable_features()))

    def _frechet(
        self, erased: Sequence[str], features: np.ndarray | None
    ) -> tuple[float | None, float | None]:
        """Return the distance to the base's pictures, and to real ones."""
        if features is None or not (erased or self.reference):
            return None, None

        here = Gaussian.of(features)
        to_base = frechet_distance(here, self._of_base) if erased else None
        to_real = frechet_distance(here, self.reference) if self.reference else None
        return rounded(to_base), rounded(to_real)


def case_order(suite: Suite) -> list[int]:
    """Return the places of a suite's cases in the order of their numbers."""
    return sorted(range(len(suite.cases)), key=lambda place: suite.cases[place].number)


def ordered(features: np.ndarray | None, order: Sequence[int]) -> np.ndarray | None:
    """Return the rows in this order."""
    return None if features is None else features[order]


def _of_case(columns: Mapping[str, Sequence], index: int) -> dict:
    return {name: column[index] for name, column in columns.items() if column[index] is not None}


def rounded(value: float | None) -> float | None:
    """Return a number as it is stored; what is not known stays so."""
    return None if value is None else round(value, DIGITS)
