"""One erasure under way: its variables, optimiser and stop."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import multierase
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Cost, Provenance, Stop
from multierase.increments.value import Increment, gram_factor
from multierase.models.conditioning import Conditioning
from multierase.models.model import Model
from multierase.separation.directions import compact, concept_tokens
from multierase.training.certificate import Exam, as_json, certificate
from multierase.training.closed_form import start
from multierase.training.delta import Inputs, Student, predictions
from multierase.training.examples import Examples
from multierase.training.objectives import (
    REGULARIZERS,
    concept_correlation,
    erasure_degree,
    squared_error,
)
from multierase.training.optimizers import MOMENTS, optimizer_class
from multierase.training.plan import Plan
from multierase.training.stopping import MomentumStop
from multierase.training.trajectories import Batch, EvaluationCounter

FREE_RATE = 0.005  # of a weight's root mean square, for parameters that train freely
CORRELATION_WAIT = 10  # steps before SepME's code stops
FROM_BASE = 1.0  # the degree of a concept on the base
START_RATE = 0.15  # of the root mean square of what a layer starts from
UNIT_RATE = 0.1  # of the tokens' own movement, for what starts from the base
LOOK = 8  # steps between two looks at unseen sentences


@dataclass(frozen=True)
class Loss:
    """A step's loss, and the statistics that may end the erasure.

    Args:
        own: of the objective.
        others: of what keeps and regularises.
    """

    own: torch.Tensor
    others: torch.Tensor
    degree: float
    correlation: float


class Erasure:
    """One erasure under way, and what a checkpoint holds of it.

    Args:
        model: the frozen base.
        plan: what is asked.
        method: name of the method, for the provenance.
    """

    def __init__(self, model: Model, plan: Plan, method: str):
        self.model, self.plan, self.method = model, plan, method
        self.concept, self.settings = plan.concept, plan.settings
        rank, seed = self.settings.rank or 0, self.settings.seed
        self.student = Student(
            model, plan.parameters, plan.readers, plan.directions, rank=rank, seed=seed
        )
        self._start()
        self.optimizer = optimizer_class(self.settings.optimizer)(self._parameter_groups())

        on_degree, at = self.settings.stop_on == "degree", self.settings.stop_at
        momentum = self.settings.momentum
        # Both statistics are recorded, whichever of them ends the erasure.
        self.degree = MomentumStop(at if on_degree else None, momentum)
        # SepME's code starts the average at the first value, and does not stop at once.
        self.correlation = MomentumStop(
            None if on_degree else at, momentum, average=None, wait=CORRELATION_WAIT
        )

        self.evaluations = EvaluationCounter()
        self.examples = Examples(model, plan, self.evaluations)
        self.step, self.seconds, self.finished = 0, 0.0, False
        self.evaluations.forward = plan.spent
        self.watched = self.asked = None
        if plan.points is not None and plan.watched:
            self.watched = Exam(model, plan.points, plan.watched, self.evaluations)
        if plan.points is not None and plan.asked:
            self.asked = Exam(model, plan.points, plan.asked, self.evaluations)

    @property
    def key(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to belong to this erasure."""
        return json.loads(
            json.dumps(
                {
                    "concept": dataclasses.asdict(self.concept),
                    "settings": dataclasses.asdict(self.settings),
                    "method": self.method,
                    "base": self.model.name,
                    "dtype": str(self.model.dtype),
                    "beside": list(self.plan.beside),
                }
            )
        )

    def inputs(self, batch: Batch) -> Inputs:
        """Return the student's inputs: the prompts, their contexts if needed, the kept prompts."""
        texts = [batch.text]
        if self.plan.asks_null:
            texts.append(batch.null)
        if len(batch.kept):
            texts.append(batch.kept)
        count = len(texts)

        return (
            batch.x_t.repeat(count, 1, 1, 1),
            batch.t.repeat(count),
            Conditioning.cat(texts),
        )

    def loss(self, batch: Batch, eps: torch.Tensor) -> Loss:
        """Compute a step's loss.

        Args:
            eps: the student's predictions for ``inputs``.

        Raises:
            FloatingPointError: if it is not finite.
        """
        eps_student, *rest = eps.split(len(batch))
        eps_student_null = rest.pop(0) if self.plan.asks_null else batch.eps_null
        correlation = concept_correlation(
            eps_student, eps_student_null, batch.eps_concept, batch.eps_null
        )
        if self.plan.objective == "correlation":
            own = correlation
        else:
            own = squared_error(eps_student, batch.target)

        others = torch.zeros(())
        if rest:
            others = others + self.settings.keep_weight * squared_error(rest[0], batch.eps_kept)
        if self.settings.regularizer != "none":
            norm = REGULARIZERS[self.settings.regularizer]
            deltas = map(self.student.delta, self.student.frozen)
            others = others + self.settings.beta * norm(deltas)

        self._require_finite(own + others)
        self.evaluations.trained += len(eps)
        degree = erasure_degree(eps_student.detach(), batch.eps_concept, batch.eps_null)
        return Loss(own, others, degree.item(), correlation.item())

    def observe(self, loss: Loss) -> None:
        """Count a step that has been taken; finish if its statistics say so."""
        self.step += 1
        by_degree = self.degree.update(loss.degree)
        by_correlation = self.correlation.update(loss.correlation)
        self.finished = by_degree or by_correlation or self._gone_unseen()

    def _gone_unseen(self) -> bool:
        """Whether unseen sentences say that the concept is gone; asked every few steps."""
        settings = self.settings
        if settings.stop_on != "unseen" or settings.stop_at is None or self.step % LOOK:
            return False
        if self.watched is None:  # no sentence is held back: then the training's own say it
            degrees = self.degree.curve[-LOOK:]
        else:
            degrees = [answer.degree for answer in self.watched.answers(self._predict)]

        return fmean(degrees) <= settings.stop_at

    def _predict(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        with torch.no_grad(), predictions([self.student], [(x_t, t, conditioning)]) as (eps,):
            return eps

    def measure_step(self, batch: Batch) -> None:
        """Count the floating-point operations of a forward and backward, in forwards."""
        one = batch.take(slice(0, 1))
        inputs = one.x_t, one.t, one.text
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            self.model.predict(*inputs)

        with (
            FlopCounterMode(display=False) as both,
            predictions([self.student], [inputs]) as (eps,),
        ):
            eps.float().sum().backward()
        self.optimizer.zero_grad()

        self.evaluations.step_cost = both.get_total_flops() / forward.get_total_flops()

    def state_dict(self) -> dict[str, Any]:
        """Return all that an interrupted erasure needs to go on, as plain values and tensors."""
        variables = self.student.variables.items()

        return {
            "key": json.dumps(self.key, sort_keys=True),
            "variables": {name: variable.detach() for name, variable in variables},
            "optimizer": self.optimizer.state_dict(),
            "degree": dataclasses.asdict(self.degree),
            "correlation": dataclasses.asdict(self.correlation),
            "evaluations": dataclasses.asdict(self.evaluations),
            "step": self.step,
            "seconds": self.seconds,
            "finished": self.finished,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, RuntimeError: for a state that is none
                of this erasure's.
        """
        with torch.no_grad():
            for name, variable in self.student.variables.items():
                saved = state["variables"][name]
                _require_like(saved, variable, name)
                variable.copy_(saved)

        self.optimizer.load_state_dict(state["optimizer"])
        for name, variable in self.student.variables.items():
            for moment in MOMENTS[self.settings.optimizer]:
                if variable in self.optimizer.state:
                    _require_like(self.optimizer.state[variable][moment], variable, name)

        self.degree = MomentumStop(**state["degree"])
        self.correlation = MomentumStop(**state["correlation"])
        vars(self.evaluations).update(dataclasses.asdict(EvaluationCounter(**state["evaluations"])))
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        if not 0 <= self.step <= self.plan.steps:
            raise ValueError(f"step {self.step} of {self.plan.steps}")
        self.finished = bool(state["finished"])

    def increment(self) -> Increment:
        """Return what has been learned, with its certificate."""
        model, concept = self.model, self.concept
        grams = {}
        for stream in model.streams:
            tokens = concept_tokens(model, concept, stream).to(model.device)
            grams[stream] = gram_factor(compact(tokens))

        return Increment(
            deltas=self.student.deltas(),
            base=Fingerprint.of(model.name, model.family, self.student.frozen),
            provenance=self._provenance(),
            grams=grams,
            readers=self.plan.readers,
        )

    def _provenance(self) -> Provenance:
        concept = self.concept
        certified = self._certificate()  # before its cost is counted
        settings = dataclasses.asdict(self.settings)
        if self.model.resolution is not None:
            settings["resolution"] = self.model.resolution

        return Provenance(
            concept=concept.name,
            prompts=concept.prompts,
            contexts=concept.contexts,
            anchor=concept.anchor,
            erase_from=concept.erase_from,
            method=self.method,
            scope=self.settings.scope or "",
            # Through JSON, so that the value equals what a file gives back.
            settings=json.loads(json.dumps(settings)),
            seed=self.settings.seed,
            version=multierase.__version__,
            cost=Cost(
                evaluations=round(self.evaluations.total),
                seconds=round(self.seconds, 2),
                peak_memory_mib=self.model.peak_memory(),
            ),
            stop=Stop(
                reason="erased" if self.finished else "steps",
                steps=self.step,
                degree=float(self.degree.average or 0.0),
                degrees=tuple(round(degree, 5) for degree in self.degree.curve),
            ),
            separation=self.plan.separation,
            certificate=certified,
        )

    def _certificate(self) -> dict[str, Any] | None:
        """Ask the questions that were held back; ``None`` if there are none."""
        if self.asked is None:
            return None
        answers = self.asked.answers(self._predict)

        return {**certificate(answers), "questions": as_json(self.plan.asked)}

    @torch.no_grad()
    def _start(self) -> None:
        """Put the separated parameters where the closed form says that the erasure begins.

        It is that of the ESD target, for sentences whose place nothing else is to take.
        """
        degree, esd = self.settings.start_at, self.plan.objective == "esd"
        if degree in (None, FROM_BASE) or not esd or self.concept.erase_from:
            return
        starts = {
            stream: start(self.model, self.concept, stream, found, degree).to(self.model.device)
            for stream, found in self.plan.directions.items()
        }
        for name in self.student.separated:
            frozen = self.student.frozen[name].float()
            self.student.variables[name].copy_(frozen @ starts[self.plan.readers[name]])

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Give each variable its learning rate: a coefficient has another unit than a weight."""
        groups = []
        for name, variable in self.student.variables.items():
            groups.append({"params": [variable], "lr": self._rate(name)})

        return groups

    def _rate(self, name: str) -> float:
        if name in self.student.separated:
            begun = self.student.variables[name].detach().square().mean().sqrt().item()
            return self.settings.learning_rate or START_RATE * begun or UNIT_RATE

        # A right factor has no weight of its own: its unit is what it starts from.
        like = self.student.frozen.get(name, self.student.variables[name])
        size = like.detach().float().square().mean().sqrt().item()
        return self.settings.free_learning_rate or FREE_RATE * size

    def _require_finite(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"erasing {self.concept.name!r}: the loss is {loss.item()} at step {self.step}: "
                "lower the learning rate or use float32"
            )


def _require_like(saved: torch.Tensor, variable: torch.Tensor, name: str) -> None:
    if saved.shape != variable.shape or not torch.isfinite(saved).all():
        raise ValueError(f"{name} has other shapes, or numbers that are not finite")
