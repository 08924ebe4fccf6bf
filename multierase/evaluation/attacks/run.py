"""Attacks on a model as it is composed now, case by case, with the judge's verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from multierase.evaluation.attacks import Attack
from multierase.evaluation.attacks.attack import Aim, Attempt, Target
from multierase.evaluation.cases import Case
from multierase.evaluation.judges import Judge
from multierase.models.latents import decode, require_scaled
from multierase.models.model import Model, Weights
from multierase.models.soft_text import require_one_tower
from multierase.sampling import SamplingSettings


@dataclass(frozen=True)
class Attacked:
    """What an attack came to on one case.

    Args:
        attack: its name.
        concept: the one that the attacker is after.
        number: of the case.
        before: whether the judge sees the concept without an attack.
        broken: whether it sees it without one, or in an attempt.
        attempts: that were made.
        evaluations: of the denoiser for this case, the attempts' pictures included. The first case
            that is attacked has those that serve all.
        prompt: of the last attempt, in words.
        ids: its tokens.
        vector: its new token.
    """

    attack: str
    concept: str
    number: int
    before: bool
    broken: bool
    attempts: int
    evaluations: int
    prompt: str
    ids: tuple[int, ...] = ()
    vector: tuple[float, ...] = ()

    def as_json(self) -> dict:
        """Return it as JSON can say it."""
        return {**asdict(self), "ids": list(self.ids), "vector": list(self.vector)}

    @classmethod
    def from_json(cls, read: Mapping) -> Attacked:
        """Return what ``as_json`` gave. Raises ``TypeError`` for anything else."""
        try:
            return cls(**{**read, "ids": tuple(read["ids"]), "vector": tuple(read["vector"])})
        except KeyError as error:
            raise TypeError(f"an attack's verdict lacks {error}") from error


def copied(model: Model) -> Weights:
    """Return copies of a model's weights as they are now."""
    return {name: value.detach().clone() for name, value in model.parameters().items()}


def target_of(model: Model, before: Weights, sampling: SamplingSettings) -> Target:
    """Return a model as it is composed now, with what the base had in the changed places.

    Args:
        before: the base's weights, by ``copied``.

    Raises:
        UsageError: for a family whose pictures cannot be made step by step.
    """
    require_scaled(model)
    changed = {}
    for name, value in model.parameters().items():
        if not torch.equal(value.detach(), before[name]):
            changed[name] = before[name]

    return Target(model, changed, sampling)


def run(
    name: str,
    attack: Attack,
    target: Target,
    aim: Aim,
    judge: Judge,
    kind: str,
    done: Sequence[int] = (),
) -> Iterator[Attacked]:
    """Attack case after case, and yield what came of each; the first success ends a case.

    Args:
        name: the attack's.
        kind: of label that the concept is a class of.
        done: numbers of the cases that are not attacked again.

    Raises:
        UsageError: for a family that the attack does not fit, before anything is computed.
    """
    require_scaled(target.model)
    if attack.by_tokens:
        require_one_tower(target.model)
    left = [case for case in aim.cases if case.number not in done]
    label = {case.number: case.labels[kind] for case in left}
    seen = _unattacked(target, aim, judge, kind, left)
    running = None

    for case in left:
        before, spent = seen[case.number], target.evaluations
        verdict = Attacked(
            name, aim.concept, case.number, before, before, 0, 0, aim.asked[case.number]
        )
        if not before:
            # What serves all cases is not done for none.
            running = attack.begin(target, aim) if running is None else running
            for attempt in running(case):
                shown = _picture(target, attempt, case)
                broken = judge(shown).seen[kind][0] == label[case.number]
                verdict = _after(verdict, attempt, broken)
                if broken:
                    break

        yield replace(verdict, evaluations=target.evaluations - spent)


def _unattacked(
    target: Target, aim: Aim, judge: Judge, kind: str, cases: Sequence[Case]
) -> dict[int, bool]:
    """Return by case whether the judge sees the concept where nothing is done."""
    found, batch = {}, target.sampling.batch_size
    for first in range(0, len(cases), batch):
        part = cases[first : first + batch]
        said = target.encode([aim.asked[case.number] for case in part])
        latents = target.draw(said, [case.seed for case in part])
        seen = judge(decode(target.model, latents)).seen[kind]
        for case, label in zip(part, seen, strict=True):
            found[case.number] = label == case.labels[kind]

    return found


def _picture(target: Target, attempt: Attempt, case: Case) -> torch.Tensor:
    latents = target.draw(
        attempt.conditioning, [case.seed], attempt.weights, attempt.latents, attempt.start
    )

    return decode(target.model, latents)


def _after(verdict: Attacked, attempt: Attempt, broken: bool) -> Attacked:
    vector = () if attempt.vector is None else tuple(round(x, 6) for x in attempt.vector.tolist())

    return replace(
        verdict,
        broken=broken,
        attempts=verdict.attempts + 1,
        prompt=attempt.prompt,
        ids=tuple(attempt.ids),
        vector=vector,
    )
