"""The numbers of a set of erased concepts: a row for each set of a sweep."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from multierase.errors import DatabaseError
from multierase.evaluation.concept_sets import Erased
from multierase.evaluation.measures import IN_PROMPT, in_prompt
from multierase.evaluation.observations import Comparison, Observations, Outcome, Picture
from multierase.evaluation.report.attacked import attack_table, by_attack
from multierase.evaluation.statistics import Gaussian, Share, harmonic_mean, mean
from multierase.evaluation.store import Store
from multierase.evaluation.suites import Suite
from multierase.files import plain

SHARES = (
    "remaining",
    "kept",
    "kept_by_base",
    "restored",
    "restored_by_base",
    "cross_domain",
    "beside",
    "beside_by_base",
)
"""A row's shares of pictures, each with its interval."""
SHOWN = (
    "remaining",
    "kept",
    "kept_relative",
    "harmonic_mean",
    "restored",
    "cross_domain",
    "beside",
)
TITLES = (
    "remaining (0 % best)",
    "kept",
    "kept, of the base's",
    "harmonic mean",
    "restored",
    "cross domain",
    "beside the erased",
)
MADE = (
    "method",
    "judge",
    "distance_by",
    "frechet_by",
    "measured_by",
    "reference",
    "suite",
    "sampling",
    "version",
)
PREDICTED = "certificate"  # how the judge's name of a sweep by predictions begins
Labels = Mapping[int, Mapping[str, str]]
"""What each case asks for, by its number and the kind of label."""


@dataclass
class _Tally:
    """The verdicts of one set's pictures, each under what it is evidence of."""

    verdicts: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in SHARES})
    distances: list[float] = field(default_factory=list)
    kept: list[Picture] = field(default_factory=list)
    erased: list[Picture] = field(default_factory=list)
    in_prompt: dict[str, list[float]] = field(default_factory=dict)

    def share(self, name: str) -> Share:
        return Share.of(self.verdicts[name])


def row_of(
    suite: Suite,
    erased: Sequence[str],
    observations: Observations,
    base: Observations,
    reference: Gaussian | None = None,
) -> dict:
    """Return the row of one set from observations, without a store; see ``make_row``."""
    comparison = Comparison.with_base(suite, base, reference)
    outcome = comparison.outcome(suite, erased, observations)

    row = make_row(suite.labels, erased, outcome, comparison.outcome(suite, (), base))
    return {**row, "attacks": by_attack(observations.attacked)}


def by_concept(suite: Suite, observations: Observations) -> dict[str, dict]:
    """Return for each class the share of its cases in which it is seen."""
    comparison = Comparison(None, None)

    return _by_concept(suite.labels, comparison.outcome(suite, (), observations))


def make_row(
    labels: Labels,
    erased: Sequence[str],
    outcome: Outcome,
    base: Outcome,
    restored: Collection[str] = (),
) -> dict:
    """Return the numbers of one set of erased concepts.

    - ``remaining``: of the cases that ask for an erased concept, the share in which it is still
      seen; 0 is best. ``kept``: of the other classes of its domain, the share seen; 1 is best.
      ``cross_domain``: of every case, the share in which the other kinds of label are seen.
      UnlearnCanvas (arXiv 2402.11846) has these as UA = 1 − remaining, IRA = kept, CRA.
    - ``restored``: of the cases that ask for a restored concept, the share seen. The state is a set
      and not a history, so this is what erasing the rest alone gives.
    - ``beside``: of the cases that ask for an erased concept, the share in which what else they ask
      for is still seen: whether the harmless rest of a prompt survives, as Six-CD (arXiv
      2406.14855) asks.
    - ``kept_relative``, ``restored_relative``, ``beside_relative``: divided by the base's own share
      of the same cases, ``kept_by_base`` and so on.
    - ``harmonic_mean``: of 1 − ``remaining`` and ``kept_relative``.
    - ``distance``: mean to the base's pictures of what is kept, at equal seeds.
    - ``measures``: by name the mean over what is kept, and with ``_erased`` over the cases that ask
      for an erased concept. ``in_prompt_clip_score``, and the base's own, are of the pictures that
      ask for an erased concept with their prompts without it (Six-CD). ``counts``,
      ``base_counts``: what was counted in all pictures.

    Args:
        restored: in an order of events, the concepts that were erased before and are not now.
    """
    tally = _tally(labels, erased, outcome, base, restored)
    remaining, kept = tally.share("remaining"), tally.share("kept")
    relative = _relative(kept, tally.share("kept_by_base"))

    means = _means(tally.kept)
    means |= {f"{key}_erased": value for key, value in _means(tally.erased).items()}
    means |= {key: mean(values) for key, values in tally.in_prompt.items()}

    return {
        "erased_concepts": list(erased),
        "size": len(erased),
        **{name: tally.share(name).as_dict() for name in SHARES},
        "kept_relative": relative,
        "restored_relative": _relative(tally.share("restored"), tally.share("restored_by_base")),
        "beside_relative": _relative(tally.share("beside"), tally.share("beside_by_base")),
        "harmonic_mean": overall(remaining, kept, relative),
        "ua": 1 - remaining.value,
        "ira": kept.value,
        "cra": tally.share("cross_domain").value,
        "distance": mean(tally.distances),
        "frechet_distance": outcome.frechet_distance,
        "reference_distance": outcome.reference_distance,
        "measures": means,
        "counts": _counts(outcome),
        "base_counts": _counts(base),
    }


def _tally(
    labels: Labels,
    erased: Sequence[str],
    outcome: Outcome,
    base: Outcome,
    restored: Collection[str],
) -> _Tally:
    tally, names = _Tally(), {name.lower() for name in erased}
    # Suites and libraries spell a concept's capitals differently.
    given_back = {name.lower() for name in restored} - names
    domains = domains_of(labels, erased)

    for number, asked in labels.items():
        # A picture that asks for an erased concept is evidence of nothing else in its domain: what
        # takes the concept's place may well change the rest.
        picture, gone = outcome.pictures[number], _asks_for(asked, names)
        for kind, label in asked.items():
            right = picture.seen.get(kind) == label
            right_in_base = base.pictures[number].seen.get(kind) == label
            if label.lower() in given_back and not gone:
                tally.verdicts["restored"].append(right)
                tally.verdicts["restored_by_base"].append(right_in_base)
            if gone and label.lower() not in names:
                tally.verdicts["beside"].append(right)
                tally.verdicts["beside_by_base"].append(right_in_base)

            # Without anything erased there is no domain, and every label counts as kept.
            if kind not in domains and erased:
                tally.verdicts["cross_domain"].append(right)
            elif label.lower() in names:
                tally.verdicts["remaining"].append(right)
            elif not gone:
                tally.verdicts["kept"].append(right)
                tally.verdicts["kept_by_base"].append(right_in_base)

        (tally.erased if gone else tally.kept).append(picture)
        for key, own in _in_prompt(asked, names, picture, base.pictures[number]).items():
            tally.in_prompt.setdefault(key, []).append(own)
        if not gone and picture.distance is not None:
            tally.distances.append(picture.distance)

    return tally


def domains_of(labels: Labels, concepts: Sequence[str]) -> set[str]:
    """Return the kinds of label that have these concepts among their classes."""
    names = {name.lower() for name in concepts}

    domains = set()
    for asked in labels.values():
        domains |= {kind for kind, label in asked.items() if label.lower() in names}

    return domains


def _asks_for(asked: Mapping[str, str], names: Collection[str]) -> bool:
    return any(label.lower() in names for label in asked.values())


def _in_prompt(
    asked: Mapping[str, str], names: Collection[str], picture: Picture, of_base: Picture
) -> dict[str, float]:
    """Return the CLIP scores with the prompt without its erased concept, if it has just one."""
    gone = [kind for kind, label in asked.items() if label.lower() in names]
    column = in_prompt(gone[0]) if len(gone) == 1 else None
    if column not in picture.measures:
        return {}

    return {
        "in_prompt_clip_score": picture.measures[column],
        "in_prompt_clip_score_by_base": of_base.measures[column],
    }


def overall(remaining: Share, kept: Share, relative: float) -> float:
    """Return the harmonic mean of what is gone and of what is kept relative to the base.

    It is of the first alone if nothing is left to keep, and no number if nothing is erased.
    """
    if not remaining.count:
        return math.nan
    gone = 1 - remaining.value

    return harmonic_mean(gone, relative) if kept.count else harmonic_mean(gone)


def _relative(here: Share, base: Share) -> float:
    return here.value / base.value if base.right else math.nan


def _means(pictures: Sequence[Picture]) -> dict[str, float]:
    columns: dict[str, list[float]] = {}
    for picture in pictures:
        for name, value in picture.measures.items():
            if not name.startswith(IN_PROMPT):  # what it says, it says of what is erased
                columns.setdefault(name, []).append(value)

    return {name: mean(values) for name, values in columns.items()}


def _counts(outcome: Outcome) -> dict[str, int]:
    found: dict[str, int] = {}
    for picture in outcome.pictures.values():
        for name, count in picture.counts.items():
            found[name] = found.get(name, 0) + count

    return found


def _by_concept(labels: Labels, outcome: Outcome) -> dict[str, dict]:
    verdicts: dict[str, list[bool]] = {}
    for number, asked in labels.items():
        for kind, label in asked.items():
            right = outcome.pictures[number].seen.get(kind) == label
            verdicts.setdefault(label, []).append(right)

    return {label: Share.of(found).as_dict() for label, found in verdicts.items()}


class Rows:
    """The rows of a store: a set each, or in an order of events a stage each."""

    def __init__(self, store: Store):
        self.store = store
        self.cases = store.cases()
        self.labels = {case.number: case.labels for case in self.cases}
        self.stages = store.stages()
        self._base: Outcome | None = None  # every row is compared with it

    def outcome(self, erased: Erased) -> Outcome:
        """Return what was found in one set's pictures."""
        if not erased and self._base is not None:
            return self._base
        outcome = self.store.outcome(erased)
        if outcome.pictures.keys() != self.labels.keys():
            raise DatabaseError(
                f"{self.store.path} is damaged, or unfinished: {list(erased)} has "
                f"{len(outcome.pictures)} pictures of {len(self.labels)} cases"
            )

        if not erased:
            self._base = outcome
        return outcome

    def row(self, erased: Erased, stage: int = 0) -> dict:
        """Return one set's numbers; those of an order's stage know the stages before it."""
        restored: set[str] = set()
        if any(event for event, _ in self.stages):
            restored = {name for _, before in self.stages[:stage] for name in before}

        row = make_row(
            self.labels, erased, self.outcome(erased), self.outcome(()), restored - set(erased)
        )
        return {**row, "attacks": by_attack(self.store.attacked(erased))}

    def by_concept(self, erased: Erased) -> dict[str, dict]:
        """Return for each class the share of its cases in which it is seen."""
        return _by_concept(self.labels, self.outcome(erased))

    def rows(self) -> list[dict]:
        """Return the rows of all finished sets: the base, then as the sweep has them."""
        done = self.store.done()
        stages = [(0, "base", ())]
        for place, (event, erased) in enumerate(self.stages):
            stages.append((place, event, erased))

        found = []
        for place, event, erased in stages:
            if erased in done:
                found.append({"event": event, **self.row(erased, place)})

        return found


def as_json(value):
    """Return a row, or rows, as JSON can say it: what is not known is null."""
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]

    return None if isinstance(value, float) and not math.isfinite(value) else value


def predicted(settings: Mapping[str, object]) -> bool:
    """Whether a store's numbers are predictions, of sentences and not of pictures."""
    return str(settings.get("judge", "")).startswith(PREDICTED)


def made(store: Store) -> dict:
    """Return what a store's numbers were made with."""
    return made_with(store.settings())


def made_with(settings: Mapping[str, object]) -> dict:
    """Return those of a sweep's settings that reports state."""
    return {key: settings.get(key) for key in MADE}


def name_of(row: Mapping) -> str:
    """Return a row's erased concepts, for people."""
    return plain(" + ".join(row["erased_concepts"])) or "base"


def shown(row: Mapping) -> list[str]:
    """Return a row's cells under ``TITLES``, for people."""
    return [_cell(row[column], column == "harmonic_mean") for column in SHOWN]


def _cell(value: object, is_mean: bool) -> str:
    if isinstance(value, Mapping):
        if not value["count"]:
            return "-"
        low, high = f"{value['low']:.0%}", f"{value['high']:.0%}"
        return f"{value['value']:.1%} [{low}, {high}] of {value['count']}"
    if value is None or not math.isfinite(value):
        return "-"

    return f"{value:.3f}" if is_mean else f"{value:.1%}"


def tables_of(rows: Mapping[str, Mapping]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return what was counted and measured, as tables for people: title, columns, rows.

    Args:
        rows: by method a row, such as the base's and one of each method.
    """
    tables = []
    for key, title in (("counts", "found in all pictures"), ("measures", "means")):
        names = dict.fromkeys(name for row in rows.values() for name in row[key])
        lines = []
        for name in names:
            cells = [row[key].get(name) for row in rows.values()]
            lines.append([name, *("-" if cell is None else f"{cell:g}" for cell in cells)])
        if lines:
            tables.append((title, ["", *map(plain, rows)], lines))

    attacked = attack_table(rows)
    if attacked:
        title = "seen in the attacked cases of an erased concept (0 % best)"
        tables.append((title, ["attack", *map(plain, rows)], attacked))
    return tables
