"""What a sweep's database says: a row for each set of erased concepts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from multierase.evaluation.database import Database
from multierase.evaluation.metrics import Share, harmonic_mean
from multierase.evaluation.plans import Erased

SHARES = ("erased", "kept", "restored", "cross_domain")  # of pictures, each with its interval


class Picture(NamedTuple):
    """What was found in one: what the judge saw, the distance to the base's, and by name what was counted, measured."""

    seen: dict[str, str]
    distance: float | None
    counts: dict[str, int]
    measures: dict[str, float]


class Results:
    """The pictures of a database, and what was asked in each."""

    def __init__(self, database: Database):
        self.database = database
        self._seen: dict[Erased, dict[int, Picture]] = {}
        listed = database.rows("SELECT case_number, labels FROM cases")
        self.labels = {number: json.loads(labels) for number, labels in listed}
        self.moments = [
            (event, tuple(json.loads(erased)))
            for event, erased in database.rows("SELECT event, erased FROM moments ORDER BY position")
        ]
        self._ordered = any(event for event, _ in self.moments)
        self._can_be_off = {name for _, erased in self.moments for name in erased}
        self._can_be_off.update(database.settings().get("increments", ()))
        self.frechet = {
            tuple(json.loads(erased)): distances
            for erased, *distances in database.rows("SELECT erased, frechet_distance, reference_distance FROM sets")
        }

    def seen(self, erased: Erased) -> dict[int, Picture]:
        """By case what was found in its picture."""
        if erased not in self._seen:  # every row is set against the base's, and the heatmap asks once more
            found = self.database.rows(
                "SELECT case_number, seen, distance, counts, measures FROM pictures WHERE erased = ? "
                "ORDER BY case_number",
                json.dumps(erased),
            )
            self._seen[erased] = {
                number: Picture(json.loads(seen), distance, json.loads(counts), json.loads(measures))
                for number, seen, distance, counts, measures in found
            }
        return self._seen[erased]

    def counts(self, erased: Erased) -> dict[str, int]:
        """By class how many were counted in all pictures."""
        found: dict[str, int] = {}
        for picture in self.seen(erased).values():
            for name, count in picture.counts.items():
                found[name] = found.get(name, 0) + count
        return found

    def domains(self, concepts: Sequence[str]) -> set[str]:
        """The kinds of label that have these concepts among their classes."""
        names = {name.lower() for name in concepts}
        return {kind for labels in self.labels.values() for kind, label in labels.items() if label.lower() in names}

    def _once_off(self, moment: int) -> set[str]:
        """Of an order the concepts that were off before this moment; else all that can be off."""
        if not self._ordered:
            return self._can_be_off
        return {name for _, erased in self.moments[:moment] for name in erased}

    def row(self, erased: Erased, moment: int = 0) -> dict:
        """One set's numbers; of an order those of a ``moment``, with those before it behind it.

        ``erased``: of the cases that ask for an erased concept, the share in which it is still seen; ``kept``: of the
        other classes of its domain, the share seen; ``restored``: the share seen of what is on and can be off, or in an
        order was off: giving a concept back gives just this, for the state is a set and not a history;
        ``cross_domain``: of every case, the share in which the other kinds of label are seen. UnlearnCanvas (arXiv
        2402.11846) has these as UA = 1 − erased, IRA = kept, CRA. ``kept_relative``, ``restored_relative``: beside the
        base's own share of the same cases. ``distance``: mean to the base's pictures of what is kept, at equal seeds.
        ``measures``: by name the mean over what is kept, and with ``_erased`` over the cases that ask for an erased
        concept. ``counts``, ``base_counts``: what was counted in all pictures.
        """
        here, base = self.seen(erased), self.seen(())
        names, domains = {name.lower() for name in erased}, self.domains(erased)
        given_back = {name.lower() for name in self._once_off(moment)} - names
        sides: dict[str, list[bool]] = {side: [] for side in (*SHARES, "base", "base_restored")}
        distances, measured = [], {False: [], True: []}
        for number, labels in self.labels.items():
            picture = here[number]
            seen, distance = picture.seen, picture.distance
            gone = any(label.lower() in names for label in labels.values())
            for kind, label in labels.items():
                if label.lower() in given_back and not gone:
                    sides["restored"].append(seen.get(kind) == label)
                    sides["base_restored"].append(base[number].seen.get(kind) == label)
                if kind not in domains and erased:
                    sides["cross_domain"].append(seen.get(kind) == label)
                elif label.lower() in names:
                    sides["erased"].append(seen.get(kind) == label)
                elif not gone:
                    sides["kept"].append(seen.get(kind) == label)
                    sides["base"].append(base[number].seen.get(kind) == label)
            measured[gone].append(picture.measures)
            if not gone and distance is not None:
                distances.append(distance)
        shares = {side: Share.of(verdicts) for side, verdicts in sides.items()}
        relative = _relative(shares["kept"], shares["base"])
        return {
            "erased_concepts": list(erased),
            "size": len(erased),
            "erased": shares["erased"].as_dict(),
            "kept": shares["kept"].as_dict(),
            "kept_relative": relative,
            "restored": shares["restored"].as_dict(),
            "restored_relative": _relative(shares["restored"], shares["base_restored"]),
            "cross_domain": shares["cross_domain"].as_dict(),
            "ua": 1 - shares["erased"].value,
            "ira": shares["kept"].value,
            "cra": shares["cross_domain"].value,
            "harmonic_mean": _harmonic(shares, relative) if shares["erased"].count else math.nan,
            "distance": _mean(distances),
            **dict(
                zip(("frechet_distance", "reference_distance"), self.frechet.get(erased, (None, None)), strict=True)
            ),
            "measures": _means(measured[False])
            | {f"{key}_erased": mean for key, mean in _means(measured[True]).items()},
            "counts": self.counts(erased),
            "base_counts": self.counts(()),
        }

    def by_concept(self, erased: Erased) -> dict[str, dict]:
        """For each class of every kind of label: the share of its cases in which it is seen."""
        here, found = self.seen(erased), {}
        for number, labels in self.labels.items():
            for kind, label in labels.items():
                found.setdefault(label, []).append(here[number].seen.get(kind) == label)
        return {label: Share.of(verdicts).as_dict() for label, verdicts in found.items()}

    def rows(self) -> list[dict]:
        """Of every set that is done, the base first, then as the sweep has them; an order's moments each."""
        done = self.database.done()
        moments = [(0, "base", ()), *((moment, *found) for moment, found in enumerate(self.moments))]
        return [{"event": event, **self.row(erased, moment)} for moment, event, erased in moments if erased in done]


def _relative(here: Share, base: Share) -> float:
    return here.value / base.value if base.right else math.nan


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _means(pictures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: _mean([picture[key] for picture in pictures]) for key in (pictures[0] if pictures else ())}


def _harmonic(shares: Mapping[str, Share], relative: float) -> float:
    """Of what is gone and what is kept relative to the base; of the first alone where nothing is left to keep."""
    gone = 1 - shares["erased"].value
    return harmonic_mean(gone, relative) if shares["kept"].count else harmonic_mean(gone)
