"""Attacks on the concepts that an experiment has erased, case by case of its suite."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from multierase.errors import UsageError
from multierase.evaluation.attacks import attack_named
from multierase.evaluation.attacks.attack import Aim, Target, without
from multierase.evaluation.attacks.run import Attacked, run
from multierase.evaluation.cases import Case
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments
from multierase.evaluation.suites import Suite


def attack_concept(
    experiment: Experiment,
    instruments: Instruments,
    target: Target,
    attack: str,
    concept: str,
    *,
    named: bool = True,
    done: Collection[int] = (),
) -> Iterator[Attacked]:
    """Attack one concept of a target, and yield what came of each case.

    Args:
        named: whether prompts name the concept.
        done: numbers of the cases that are not attacked again.
    """
    kind, cases = cases_of(instruments.suite, concept, experiment.attack_cases)
    asked = {}
    for case in cases:
        asked[case.number] = case.prompt if named else without(case.prompt, concept)
    library = experiment.library
    aim = Aim(
        concept,
        cases,
        asked,
        attack_named(attack).budget(experiment.budget),
        experiment.attack_seed,
        Path(library) / "attacks" if library and "://" not in library else None,
    )

    return run(attack, attack_named(attack), target, aim, instruments.judge, kind, done)


def attack_erased(
    experiment: Experiment, instruments: Instruments, target: Target, concepts: Sequence[str]
) -> list[Attacked]:
    """Attack each concept of the set that is erased now, if a case asks for it."""
    verdicts: list[Attacked] = []
    for concept in concepts:
        if instruments.suite.domain(concept) is None:
            continue
        for attack in experiment.attack:
            verdicts += attack_concept(experiment, instruments, target, attack, concept)

    return verdicts


def cases_of(suite: Suite, concept: str, count: int) -> tuple[str, list[Case]]:
    """Return the kind of label of a concept, and up to ``count`` of the cases that ask for it.

    Raises:
        UsageError: if no case asks for it: nobody could tell whether an attack succeeds.
    """
    suite.require_asked([concept])
    kind = suite.domain(concept)
    if kind is None:
        raise UsageError(
            f"suite {suite.name!r} says of no picture what should be in it, so whether an attack "
            f"on {concept!r} succeeds cannot be judged: give another --suite"
        )

    found = []
    for case in suite.cases:
        if case.labels.get(kind, "").lower() == concept.lower():
            found.append(case)

    step = max(len(found) / count, 1)
    return kind, [found[int(place * step)] for place in range(min(count, len(found)))]
