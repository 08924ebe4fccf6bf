"""What an erasure did, measured on sentences that it was not trained with: no picture, no judge.

A base is asked for held-back sentences about a concept, and for prompts that are to stay, before
and after. About a hundred evaluations of the denoiser say how far the concept's own effect is gone
and how far everything else has moved.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch

from multierase.increments.provenance import SIDES
from multierase.models.conditioning import Conditioning
from multierase.models.model import Model
from multierase.training.defaults import NOTHING
from multierase.training.trajectories import EvaluationCounter, in_parts
from multierase.training.trial import Points, Trial

# A degree at or below it: the sentence says nothing about the concept any more. Sets with a mean
# degree of up to 0.2 were as well erased, by the judge, as those below 0.
GONE = 0.1

Predict = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]
About = Literal["own", "siblings", "kept", "general"]


@dataclass(frozen=True)
class Question:
    """A prompt, the same without what it is about, and which side it stands on.

    Raises:
        ValueError: for what is no text, or a side that does not exist.
    """

    prompt: str
    context: str
    about: About

    def __post_init__(self) -> None:
        for text in (self.prompt, self.context):
            if not isinstance(text, str):
                raise ValueError(f"a question is {text!r:.60}, expected a text")
        if self.about not in get_args(About):
            raise ValueError(f"a question is about {self.about!r:.60}: {list(get_args(About))}")


@dataclass(frozen=True)
class Answer:
    """How a prompt's prediction has changed.

    With ``d = ε*(prompt) − ε*(context)``, what the prompt adds to its context on the base:

    Args:
        degree: ``⟨ε_θ(prompt) − ε*(context), d⟩ / ‖d‖²``: 1 on the base, 0 if nothing of ``d`` is
            left. Not a number for what is to stay.
        moved: ``‖ε_θ(prompt) − ε*(prompt)‖``, in the size that ``d`` has for the concept's own
            sentences, in the root mean square: 0 on the base.
    """

    prompt: str
    about: About
    degree: float
    moved: float


class Exam:
    """Questions to one base, each asked at one point; the base's own answers are kept.

    Args:
        model: the base. What it predicts is asked for when it is first needed, so it must be free
            of increments then.
        points: latents; questions take them in turn.
        evaluations: where the cost is counted.
    """

    def __init__(
        self,
        model: Model,
        points: Points,
        questions: Sequence[Question],
        evaluations: EvaluationCounter,
    ):
        self.model, self.evaluations = model, evaluations
        self.points = points.take([i % len(points.t) for i in range(len(questions))])
        # Of a concept's own sentences alone, which come first, the contexts are asked for too.
        self.questions = tuple(sorted(questions, key=lambda question: question.about != "own"))
        self.own = sum(question.about == "own" for question in self.questions)
        self.before: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def prompts(self) -> list[str]:
        """What is asked, own ones first."""
        return [question.prompt for question in self.questions]

    @property
    def contexts(self) -> list[str]:
        """The contexts of the own ones."""
        return [question.context for question in self.questions[: self.own]]

    def base(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the base's predictions for the prompts, and for the contexts of the own ones."""
        if self.before is None:
            (self.before,) = _known([self])

        return self.before

    @cached_property
    def unit(self) -> float:
        """What ``moved`` is measured in: the size of ``d`` for the concept's own sentences.

        Where no question is about a concept, somebody has to say it.
        """
        return self._sizes().mean().sqrt().item()

    def answers(self, predict: Predict) -> list[Answer]:
        """Ask a changed model the same; ``predict`` is its ``ε_θ(x_t, t, conditioning)``."""
        self.base()

        return self.compare(*_ask([self], predict, [self.prompts]))

    def compare(self, after: torch.Tensor) -> list[Answer]:
        """Return the answers of a model by its predictions ``(n, c, h, w)`` for the prompts."""
        if not self.questions:
            return []
        eps_prompt, eps_context = self.base()

        effects = eps_prompt[: self.own] - eps_context
        left = ((after[: self.own] - eps_context) * effects).flatten(1).sum(1) / self._sizes()
        moves = (after - eps_prompt).flatten(1).norm(dim=1) / self.unit

        degrees = [*left.tolist(), *[math.nan] * (len(self.questions) - self.own)]
        return [
            Answer(question.prompt, question.about, degree, moved)
            for question, degree, moved in zip(self.questions, degrees, moves.tolist(), strict=True)
        ]

    def _sizes(self) -> torch.Tensor:
        """Return ``‖d‖²`` of each of the concept's own sentences."""
        eps_prompt, eps_context = self.base()
        effects = eps_prompt[: self.own] - eps_context

        return effects.square().flatten(1).sum(1).clamp_min(torch.finfo(torch.float32).tiny)


def _known(exams: Sequence[Exam]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return by exam the base's predictions for its prompts and contexts."""
    predict = exams[0].model.predict
    prompts = _ask(exams, predict, [exam.prompts for exam in exams])
    contexts = _ask(exams, predict, [exam.contexts for exam in exams])

    return list(zip(prompts, contexts, strict=True))


@torch.no_grad()
def _ask(
    exams: Sequence[Exam], predict: Predict, texts: Sequence[Sequence[str]]
) -> list[torch.Tensor]:
    """Return by exam what is predicted for its texts, at its first points: all in one batch.

    A denoiser is several times as fast for many at once as for each alone.
    """
    counts = [len(listed) for listed in texts]
    asked = [exam.points.take(range(count)) for exam, count in zip(exams, counts, strict=True)]
    x_t, t = torch.cat([each.x_t for each in asked]), torch.cat([each.t for each in asked])
    if not len(x_t):
        return list(x_t.float().split(counts))

    model, evaluations = exams[0].model, exams[0].evaluations
    evaluations.forward += len(x_t)
    text = model.encode(list(itertools.chain.from_iterable(texts)))
    return list(in_parts(predict, x_t, t, text).float().split(counts))


def certificate(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return JSON values for an increment's file: erasure and disturbance, mean and worst."""
    own = [answer for answer in answers if answer.about == "own"]
    report: dict[str, Any] = {"sentences": len(own)}
    if own:
        degrees = [answer.degree for answer in own]
        worst = max(own, key=lambda answer: answer.degree)
        report |= {
            "gone": sum(degree <= GONE for degree in degrees) / len(own),
            "degree": statistics.fmean(degrees),
            "spread": statistics.pstdev(degrees),
            "worst": worst.degree,
            "worst_sentence": worst.prompt,
        }
    for side in SIDES:
        listed = [answer for answer in answers if answer.about == side]
        if listed:
            report[side] = _of_side(listed)

    return report


def _of_side(answers: Sequence[Answer]) -> dict[str, Any]:
    worst = max(answers, key=lambda answer: answer.moved)

    return {
        "prompts": len(answers),
        "moved": statistics.fmean(answer.moved for answer in answers),
        "worst": worst.moved,
        "worst_prompt": worst.prompt,
    }


def as_json(questions: Sequence[Question]) -> list[dict[str, str]]:
    """Return questions as JSON values, to be asked again."""
    return [asdict(question) for question in questions]


@dataclass(frozen=True)
class Examined:
    """The questions of several concepts to one base: own ones by concept, and what is to stay.

    Each prompt that is to stay is asked once, however many concepts are to leave it. Siblings of
    one concept may be erased themselves, so they are not among them.
    """

    concepts: Mapping[str, Exam]
    stay: Exam

    def answers(self, predict: Predict) -> tuple[dict[str, list[Answer]], list[Answer]]:
        """Ask a changed model; return answers by concept, and those of what is to stay."""
        exams = [*self.concepts.values(), self.stay]
        after = _ask(exams, predict, [exam.prompts for exam in exams])
        *found, stay = [exam.compare(part) for exam, part in zip(exams, after, strict=True)]

        return dict(zip(self.concepts, found, strict=True)), stay


def from_json(concept: str, listed: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Return a concept's questions, given as ``as_json`` gives them.

    Raises:
        ValueError: for questions that are none, or of which none is about the concept.
    """
    try:
        questions = [Question(**question) for question in listed]
        if not any(question.about == "own" for question in questions):
            raise ValueError("no question is about the concept")
    except (TypeError, ValueError) as error:
        raise ValueError(f"the certificate of {concept!r} is damaged: {error}") from error

    return questions


def examined(
    model: Model, asked: Mapping[str, Sequence[Mapping[str, Any]]], seed: int = 0
) -> Examined:
    """Ask the base the questions of several concepts, given as ``as_json`` gives them.

    Args:
        model: free of increments.
        asked: by concept.
        seed: of the latents.

    Raises:
        ValueError: for questions that are none.
    """
    points, evaluations = Trial(model, NOTHING, seed).points, EvaluationCounter()
    exams: dict[str, Exam] = {}
    stay: dict[str, Question] = {}
    for concept, listed in asked.items():
        questions = from_json(concept, listed)
        own = [question for question in questions if question.about == "own"]
        exams[concept] = Exam(model, points, own, evaluations)
        stay |= {each.prompt: each for each in questions if each.about in ("kept", "general")}

    rest = Exam(model, points, list(stay.values()), evaluations)
    every = [*exams.values(), rest]
    for exam, before in zip(every, _known(every), strict=True):
        exam.before = before
    if exams:
        rest.unit = math.sqrt(statistics.fmean(exam.unit**2 for exam in exams.values()))
    return Examined(exams, rest)


def names_any(prompt: str, concepts: Collection[str]) -> bool:
    """Whether a prompt that is to stay names one of these: then it is not to stay beside them."""
    return any(concept.lower() in prompt.lower() for concept in concepts)


def certify(model: Model, examined: Examined, erased: Collection[str]) -> dict[str, Any]:
    """Return JSON values that say what a composed model does to each concept.

    Args:
        model: with the increments of ``erased`` applied.
        examined: the questions to the base.
        erased: names of concepts.
    """
    answers, stay = examined.answers(model.predict)
    rest = [answer for answer in stay if not names_any(answer.prompt, erased)]
    concepts: dict[str, Any] = {}
    for concept, own in answers.items():
        moved = statistics.fmean(answer.moved for answer in own)
        concepts[concept] = {"erased": concept in erased, **certificate(own), "moved": moved}

    report: dict[str, Any] = {"erased": sorted(erased), "concepts": concepts}
    for side in ("kept", "general"):
        listed = [answer for answer in rest if answer.about == side]
        if listed:
            report[side] = _of_side(listed)

    return report
