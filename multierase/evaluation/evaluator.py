"""The evaluator: a model, an eraser on it, and the instruments that observe its pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from multierase.errors import UsageError
from multierase.evaluation.attacks.asking import attack_erased
from multierase.evaluation.attacks.run import copied, target_of
from multierase.evaluation.erasers import Eraser, other_eraser
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments, load_instruments
from multierase.evaluation.observations import Observations
from multierase.evaluation.suites import Case, Suite
from multierase.generate import Encoded, encode, generate
from multierase.models.loading import load_base
from multierase.models.model import Model, Weights
from multierase.workspace import Workspace

KEPT_PROMPTS = 1000  # encoded, for the sets to come: half a GiB at (77, 768) in float32, guided


class Evaluator:
    """Observes a suite's pictures while concepts are erased. All is loaded once, at the start.

    Args:
        experiment: what is evaluated.
        model: the experiment's model, if it is loaded already.
        eraser: what erases on this model, such as a composer; by default the experiment's method.
        instruments: the experiment's, if they are loaded already.

    Raises:
        UsageError, FileNotFoundError, MultieraseError: for anything that is wrong or not at hand.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        model: Model | None = None,
        eraser: Eraser | None = None,
        instruments: Instruments | None = None,
    ):
        self.experiment = experiment
        self.model, workspace = _opened(experiment, model, eraser)
        self.instruments = instruments or load_instruments(experiment, device=self.model.device)
        # Only now: the other methods depend on the suite's classes and guidance.
        if eraser is None and workspace is None:
            eraser = other_eraser(experiment, self.model, self.suite)
        self.eraser: Eraser = eraser or workspace
        self._workspace = workspace
        self.shown = frozenset(to_show(self.suite))

        # Both by the first place of a batch of cases.
        self._of_base: dict[int, torch.Tensor] = {}
        self._before: Weights | None = None  # for attacks: the base's own
        self._encoded: dict[int, Encoded] = {}

    @property
    def suite(self) -> Suite:
        """The suite whose pictures are observed."""
        return self.instruments.suite

    def observe(self, concepts: Sequence[str]) -> Observations:
        """Observe every case's picture while these concepts are erased.

        One batch of pictures is in memory at a time.
        """
        if self.instruments.compare_pictures and not self._of_base:
            for start in self._starts():
                # As bytes, for there may be many.
                self._of_base[start] = (self._pictures(start) * 255).round().byte()

        attacks = bool(self.experiment.attack and concepts)
        if attacks and self._before is None:
            self._before = copied(self.model)

        with self.eraser.erasing(*concepts):
            observations = self.observe_now()
            if not attacks:
                return observations
            target = target_of(self.model, self._before, self.suite.sampling)
            attacked = attack_erased(self.experiment, self.instruments, target, concepts)
            return dataclasses.replace(observations, attacked=attacked)

    def observe_now(self) -> Observations:
        """Observe every case's picture in the state that the model is in."""
        return Observations.join([self._observe_batch(start) for start in self._starts()])

    def close(self) -> None:
        """Give the model back: the base, which another eraser may then change."""
        if self._workspace is not None:
            self._workspace.composer.close()

    def _observe_batch(self, start: int) -> Observations:
        base = self._of_base[start].float() / 255 if self._of_base else None

        return self.instruments.observe(self._pictures(start), self._batch(start), base, self.shown)

    def _starts(self) -> range:
        return range(0, len(self.suite.cases), self.suite.sampling.batch_size)

    def _batch(self, start: int) -> tuple[Case, ...]:
        return self.suite.cases[start : start + self.suite.sampling.batch_size]

    def _pictures(self, start: int) -> torch.Tensor:
        cases, sampling = self._batch(start), self.suite.sampling
        prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]

        # A peer may have a text encoder of its own.
        cached = start < KEPT_PROMPTS and self.experiment.method != "peer"
        if cached and start not in self._encoded:
            self._encoded[start] = encode(self.model, prompts, sampling)

        return generate(self.model, prompts, seeds, sampling, encoded=self._encoded.get(start))


def _opened(
    experiment: Experiment, model: Model | None, eraser: Eraser | None
) -> tuple[Model, Workspace | None]:
    """Return the model, and the workspace that erases on it if the method is our increments."""
    if eraser is not None and model is None:
        raise UsageError("an eraser changes a model's weights: give that model, too")
    if eraser is not None or experiment.method != "increments":
        source = _source(experiment)
        own = model or load_base(experiment.base, config=experiment.base_config, **source)
        return own, None

    workspace = workspace_of(experiment, model)
    workspace.composer  # noqa: B018  made at once: what is wrong is said before any picture
    return workspace.model, workspace


def workspace_of(experiment: Experiment, model: Model | None = None) -> Workspace:
    """Open the workspace of an experiment whose method is our increments.

    Args:
        model: the experiment's, if it is loaded already.

    Raises:
        UsageError: without a library.
    """
    if experiment.library is None:
        raise UsageError("increments are in a library: give its folder, or another method")

    return Workspace(
        experiment.library,
        experiment.base if model is None else model,
        base_config=experiment.base_config,
        solve=experiment.solve,
        keep=experiment.keep,
        keep_weight=experiment.keep_weight,
        **_source(experiment),
    )


def _source(experiment: Experiment) -> dict[str, Any]:
    return {
        "device": experiment.device,
        "dtype": experiment.dtype,
        "t5_length": experiment.t5_length,
        "resolution": experiment.resolution,
        "offload": experiment.offload,
    }


def to_show(suite: Suite) -> list[int]:
    """Return the cases whose pictures are stored: the first of each class, then from the start.

    The classes are those of the first kind of label.
    """
    first: dict[str, int] = {}
    for case in suite.cases:
        first.setdefault(next(iter(case.labels.values()), ""), case.number)

    numbers = dict.fromkeys([*first.values(), *(case.number for case in suite.cases)])
    return list(numbers)[: suite.thumbnails]
