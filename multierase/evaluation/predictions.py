"""Sweeps by prediction: what the certificate says of every set, without a picture or a judge.

The denoiser is asked unseen sentences about every concept, and prompts that are to stay, once for
each set. A sentence counts as one that still draws its concept by its erasure degree. So the rows
are those of a sweep with pictures, and the report says what they are of.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import multierase
from multierase.composer import Composer
from multierase.errors import UsageError
from multierase.evaluation.cases import Case
from multierase.evaluation.concept_sets import Stage
from multierase.evaluation.evaluator import workspace_of
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.observations import DIGITS, Observations
from multierase.evaluation.report.rows import PREDICTED
from multierase.evaluation.store import Store
from multierase.evaluation.suites import Suite
from multierase.evaluation.sweep import (
    composition_of,
    ingredients,
    observed,
    opened,
    with_whole_paths,
)
from multierase.executors.executor import Executor, Make, Work
from multierase.executors.processes import Processes
from multierase.increments.library import Library
from multierase.sampling import SamplingSettings
from multierase.training.certificate import Question, as_json, examined, from_json, names_any

KIND = "concept"
SEEN = 0.4  # a degree above which a sentence counts as one that still draws its concept
NONE = ""
SENTENCES = 6  # about each concept; as many again say no more of a set
STAYING = 48  # prompts that are to stay, of all concepts together


def sweep_by_predictions(
    experiment: Experiment,
    stages: Sequence[Stage],
    path: str | Path,
    *,
    sentences: int | None = SENTENCES,
    executor: Executor | None = None,
    progress: bool = False,
) -> Store:
    """Predict what every set of ``stages`` does, into the database at ``path``.

    Finished sets are not asked again, so the same call goes on after a kill.

    Args:
        experiment: of the method ``increments``; what it says of pictures does not count.
        sentences: at most so many about each concept; ``None`` for all of its certificate's.
        executor: ``Processes()`` by default, one worker per core.

    Raises:
        UsageError: for another method, or a library without certificates.
        DatabaseError, UnknownConcept, FileNotFoundError: for anything that is wrong with database
            or library, before anything is asked.
    """
    executor = executor or Processes()
    asked = questions_of(experiment, sentences)
    suite = _as_suite(asked)
    wanted = list(dict.fromkeys([(), *(erased for _, erased in stages)]))
    settings = {
        **composition_of(experiment),
        "suite": suite.name,
        "judge": f"{PREDICTED}: no picture; a sentence draws its concept at a degree above {SEEN}",
        "version": multierase.__version__,
        "method": experiment.method,
        **ingredients(experiment, suite, wanted),
    }

    def make(here: bool) -> Make:
        own = experiment if here else with_whole_paths(experiment, suite)
        return partial(_predictor, own, asked)

    with opened(path, settings, suite, stages) as store:
        for erased, observations in observed(store, wanted, executor, make, progress):
            store.add(suite, erased, observations)

    return store


Asked = dict[str, list[dict[str, str]]]
"""By concept the questions of its certificate."""


def questions_of(experiment: Experiment, sentences: int | None = SENTENCES) -> Asked:
    """Return the questions of a library's certificates, with so many sentences of each concept.

    Raises:
        UsageError: for another method than increments, a library without certificates, or less than
            one sentence.
        ValueError: for a certificate that is damaged.
    """
    if sentences is not None and sentences < 1:
        raise UsageError(f"{sentences} sentences about each concept: give 1 or more")
    if experiment.method != "increments" or experiment.library is None:
        raise UsageError(
            "predictions are the certificates' of a library: give --library, and no other method"
        )
    if experiment.attack:
        raise UsageError("attacks are judged by pictures: leave --attack out, or --by predictions")
    known = Library(experiment.library).questions()
    if not known:
        raise UsageError(
            f"no increment of {experiment.library} has a certificate, so nothing says which "
            "sentences to ask: erase them with this version, or sweep --by pictures"
        )

    found = {name: from_json(name, listed) for name, listed in known.items()}
    staying = _drawn({one.prompt: None for listed in found.values() for one in _staying(listed)})
    asked = {}
    for name, listed in found.items():
        own = [question for question in listed if question.about == "own"][:sentences]
        rest = [question for question in _staying(listed) if question.prompt in staying]
        asked[name] = as_json(own + rest)
    return asked


def _staying(questions: Sequence[Question]) -> list[Question]:
    """Return the questions about what is to stay, whichever concepts are erased."""
    return [question for question in questions if question.about in ("kept", "general")]


def _drawn(prompts: Iterable[str]) -> set[str]:
    """Return the prompts that are asked, of all that are to stay: by chance, if they are many."""
    listed = list(prompts)

    return set(random.Random(0).sample(listed, min(STAYING, len(listed))))


def _as_suite(asked: Asked) -> Suite:
    """Return the questions as cases: a sentence about a concept asks for it, others for nothing."""
    cases: list[Case] = []
    stay: dict[str, None] = {}
    for concept, questions in asked.items():
        for question in questions:
            if question["about"] == "own":
                cases.append(Case(len(cases), question["prompt"], 0, {KIND: concept}))
            else:
                stay[question["prompt"]] = None
    for prompt in stay:
        cases.append(Case(len(cases), prompt, 0, {}))

    return Suite("unseen sentences", tuple(cases), {"name": PREDICTED}, SamplingSettings())


class Predictor:
    """Asks the denoiser while concepts are erased; the base's own answers are kept."""

    def __init__(self, experiment: Experiment, asked: Asked):
        workspace = workspace_of(experiment)
        self.model = workspace.model
        self.examined = examined(self.model, asked)
        keep = workspace.keep_list if experiment.solve != "sum" else None
        self.composer = Composer(
            self.model,
            workspace.library,
            solve=experiment.solve,
            keep=keep and keep.for_many_sets(),
            keep_weight=experiment.keep_weight,
        )

    def observe(self, concepts: Sequence[str]) -> Observations:
        """Ask everything while these concepts are erased, and leave them erased."""
        self.composer.set(dict.fromkeys(concepts, 1.0))
        answers, rest = self.examined.answers(self.model.predict)

        seen: list[str] = []
        for concept, own in answers.items():
            seen += [concept if answer.degree > SEEN else NONE for answer in own]
        degrees = [_number(answer.degree) for own in answers.values() for answer in own]
        moved = [_number(answer.moved) for own in answers.values() for answer in own]
        for answer in rest:
            stays = not names_any(answer.prompt, concepts)
            moved.append(_number(answer.moved) if stays else None)

        nothing = [None] * len(rest)
        return Observations(
            seen={KIND: seen + [NONE] * len(rest)},
            features=None,
            thumbnails={},
            measures={"degree": degrees + nothing, "moved": moved},
        )


def _predictor(experiment: Experiment, asked: Asked) -> Work:
    return Predictor(experiment, asked).observe


def _number(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None
