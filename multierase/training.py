"""Erasing one concept: the one training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import multierase
from multierase.base import Base, Fingerprint
from multierase.concepts import Concept, to_keep
from multierase.decoupling import ConceptRefused, Directions, directions, gram
from multierase.erase_settings import EraseSettings
from multierase.examples import Examples
from multierase.increments import Increment, gram_factor
from multierase.objectives import REGULARIZERS, concept_correlation, erasure_degree, squared_error
from multierase.stopping import MomentumStop
from multierase.student import Student, recomputed, side_by_side, together
from multierase.trajectories import Batch, EvaluationCounter

logger = logging.getLogger(__name__)

CHECKPOINT_STEPS = 16  # at the least, between two checkpoints


@dataclass(frozen=True)
class Loss:
    """A step's loss: the objective's, and what keeps and regularises; the statistics that may end the erasure."""

    own: torch.Tensor
    others: torch.Tensor
    degree: float
    correlation: float


class Erasure:
    """One erasure under way: its student, optimiser and stop; what a checkpoint holds."""

    def __init__(self, base: Base, concept: Concept, settings: EraseSettings, beside: Sequence[str] = ()):
        """``beside``: names of the concepts under whose increments it is trained too; not of those that only share
        the run."""
        known = base.known_prompts if settings.known else []
        concept = concept.with_sentences(known)
        for prompt in (*concept.prompts, concept.erase_from, concept.anchor):
            if prompt:
                base.text.require_representable(prompt)
        self.base, self.concept, self.settings = base, concept, settings
        self.known = to_keep(known, concept.name)
        self.exact = ["", *settings.keep] if settings.decouple else []
        self.directions: Directions | None = None
        if settings.decouple:
            tokens = [base.text(prompts).flatten(0, 1).cpu() for prompts in (list(concept.prompts), self.exact)]
            kept = gram(base.text(self.known).flatten(0, 1).cpu()) if self.known else None
            try:
                self.directions = directions(*tokens, kept, tolerance=settings.tolerance, ridge=settings.ridge)
            except ConceptRefused as error:
                error.concept = concept.name
                raise
        self.student = Student(base, settings.scope, self.directions and self.directions.basis)
        self.optimizer = torch.optim.Adam(self._parameter_groups())
        self.kept = [*settings.keep, *to_keep(known, concept.name, *beside)] if settings.keep_weight else []
        on_degree, at = settings.stop_on == "degree", settings.stop_at
        self.degree = MomentumStop(at if on_degree else None, settings.momentum)
        # As SepME's code: seeded by its first value, and not in the first ten steps.
        self.correlation = MomentumStop(None if on_degree else at, settings.momentum, average=None, wait=10)
        self.evaluations = EvaluationCounter()
        self.examples = Examples(base, concept, settings, self.kept, self.evaluations)
        self.beside = list(beside)
        self.step, self.seconds = 0, 0.0
        self.finished = False

    def _parameter_groups(self) -> list[dict]:
        """Each variable with its learning rate: a coefficient of the basis has another unit than a weight."""
        student, settings = self.student, self.settings

        def rate(name: str) -> float:
            if name in student.down:
                return settings.learning_rate
            return settings.free_learning_rate or 0.005 * student.frozen[name].float().square().mean().sqrt().item()

        return [{"params": [variable], "lr": rate(name)} for name, variable in student.variables.items()]

    @property
    def _asks_null(self) -> bool:
        """What the empty prompt says is exactly the base's under decoupling; else the student has to be asked."""
        return self.settings.objective == "correlation" and not self.settings.decouple

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``x_t``, ``t`` and texts to ask the student: the concept's, where need be the null, and the kept."""
        texts = [batch.text, *[batch.null] * self._asks_null, *[batch.kept] * (len(batch.kept) > 0)]
        return batch.x_t.repeat(len(texts), 1, 1, 1), batch.t.repeat(len(texts)), torch.cat(texts)

    def loss(self, batch: Batch, eps: torch.Tensor) -> Loss:
        """``eps``: the student's predictions for ``inputs``."""
        eps_student, *rest = eps.split(len(batch.x_t))
        eps_student_null = rest.pop(0) if self._asks_null else batch.eps_null
        correlation = concept_correlation(eps_student, eps_student_null, batch.eps_concept, batch.eps_null)
        own = correlation if self.settings.objective == "correlation" else squared_error(eps_student, batch.target)
        others = torch.zeros(())
        if rest:
            others = others + self.settings.keep_weight * squared_error(rest[0], batch.eps_kept)
        if self.settings.regularizer != "none":
            penalty = REGULARIZERS[self.settings.regularizer](map(self.student.delta, self.student.variables))
            others = others + self.settings.beta * penalty
        if not torch.isfinite(own + others):
            raise FloatingPointError(
                f"erasing {self.concept.name!r}: the loss is {(own + others).item()} at step {self.step}: lower the "
                "learning rate or use float32"
            )
        self.evaluations.trained += len(eps)
        degree = erasure_degree(eps_student.detach(), batch.eps_concept, batch.eps_null).item()
        return Loss(own, others, degree, correlation.item())

    def observe(self, loss: Loss) -> None:
        """Count a step that has been taken; finished, if its statistics say so."""
        self.step += 1
        self.finished = any([self.degree.update(loss.degree), self.correlation.update(loss.correlation)])

    def measure_step(self, batch: Batch) -> None:
        """Floating-point operations of forward and backward, in forwards."""
        one = batch[:1]
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            self.base.predict_noise(one.x_t, one.t, one.text)
        with (
            FlopCounterMode(display=False) as both,
            _predictions([self], [(one.x_t, one.t, one.text)]) as (eps,),
        ):
            eps.float().sum().backward()
        self.optimizer.zero_grad()
        self.evaluations.step_cost = both.get_total_flops() / forward.get_total_flops()

    def state_dict(self) -> dict:
        return {
            "key": self._key(),
            "variables": {name: variable.detach() for name, variable in self.student.variables.items()},
            "optimizer": self.optimizer.state_dict(),
            "degree": dataclasses.asdict(self.degree),
            "correlation": dataclasses.asdict(self.correlation),
            "evaluations": dataclasses.asdict(self.evaluations),
            "step": self.step,
            "seconds": self.seconds,
            "finished": self.finished,
        }

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            for name, variable in self.student.variables.items():
                variable.copy_(state["variables"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.degree, self.correlation = (MomentumStop(**state[name]) for name in ("degree", "correlation"))
        vars(self.evaluations).update(state["evaluations"])
        self.step, self.seconds, self.finished = state["step"], state["seconds"], state["finished"]

    def _key(self) -> str:
        """What must be the same for a checkpoint to be of this erasure."""
        parts = dict(
            concept=dataclasses.asdict(self.concept), settings=dataclasses.asdict(self.settings), base=self.base.name,
            dtype=str(self.base.dtype), beside=self.beside,
        )  # fmt: skip
        return json.dumps(parts, sort_keys=True)

    def increment(self) -> Increment:
        prompts = list(self.concept.prompts)
        info = {
            "concept": self.concept.name,
            "prompts": prompts,
            "contexts": list(self.concept.contexts),
            "anchor": self.concept.anchor,
            "erase_from": self.concept.erase_from,
            "scope": self.settings.scope,
            "settings": dataclasses.asdict(self.settings),
            "seed": self.settings.seed,
            "version": multierase.__version__,
            "stop_reason": "erased" if self.finished else "steps",
            "erasure_degree": self.degree.average,
            "erasure_degrees": [round(degree, 5) for degree in self.degree.curve],
            "steps": self.step,
            "unet_evaluations": round(self.evaluations.total),
            "seconds": round(self.seconds, 2),
            "peak_memory_mib": self.base.peak_memory(),
            "decoupled_from": _summary(self.exact, self.known),
            "rank": self.directions and self.directions.basis.shape[1],
            "residual": self.directions and round(self.directions.residual, 5),
        }
        gram = gram_factor(self.base.text.own_tokens(prompts).cpu())
        return Increment(self.student.deltas(), Fingerprint.of(self.base.name, self.student.frozen), info, gram)


def _summary(exact: list[str], known: list[str]) -> dict:
    """A keep-list as an increment file states it: a long one by its length and digest."""
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
    return {"exactly": exact, "known": {"prompts": len(known), "sha256": digest}}


@contextlib.contextmanager
def _predictions(
    erasures: Sequence[Erasure], inputs: Sequence[tuple[torch.Tensor, ...]], under: Sequence[Erasure] = ()
) -> Iterator[list[torch.Tensor]]:
    """Each student's predictions for its own ``x_t``, ``t`` and texts: of those that change keys and values alone, in
    one batch. ``under``: the erasures whose increments are on, all of them, for everyone. Gradients are to be taken
    inside: under gradient checkpointing that goes through the layers, and what is hooked to them, once more."""
    base, students = erasures[0].base, [erasure.student for erasure in erasures]
    if under or not all(student.reads_text_alone for student in students):
        weights = together([erasure.student for erasure in under] or students)
        yield [base.predict_noise(*of_one, weights) for of_one in inputs]
        return
    sizes = [len(of_one[0]) for of_one in inputs]
    with side_by_side(students, sizes):
        yield list(base.predict_noise(*map(torch.cat, zip(*inputs, strict=True))).split(sizes))


def descend(erasures: Sequence[Erasure], batches: Sequence[Batch], under: Sequence[Erasure] = ()) -> None:
    """One optimiser step of each erasure.

    ``under``: all that are trained simultaneously, under each other's increments, the finished ones too. They are
    balanced as in SepME, eq. 35: ``Σ η_i L_i`` with ``η_i = max_k |L_k| / |L_i|``.

    Raises:
        FloatingPointError: where a loss is not finite.
    """
    for erasure, batch in zip(erasures, batches, strict=True):
        if erasure.evaluations.step_cost == 0:
            erasure.measure_step(batch)
    inputs = [erasure.inputs(batch) for erasure, batch in zip(erasures, batches, strict=True)]
    for erasure in erasures:
        erasure.optimizer.zero_grad()
    with _predictions(erasures, inputs, under) as predictions:
        losses = [e.loss(batch, eps) for e, batch, eps in zip(erasures, batches, predictions, strict=True)]
        sizes = [loss.own.detach().abs().clamp_min(torch.finfo(torch.float32).tiny) for loss in losses]
        balance = [max(sizes) / size if under else 1.0 for size in sizes]
        sum(share * loss.own + loss.others for share, loss in zip(balance, losses, strict=True)).backward()
    for erasure, loss in zip(erasures, losses, strict=True):
        erasure.optimizer.step()
        erasure.observe(loss)


def erase(
    base: Base,
    concept: Concept | str,
    settings: EraseSettings | None = None,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Increment:
    """Erase ``concept`` from ``base`` with ESD (arXiv 2303.07345) and return what that changes; the base stays.

    Args:
        base: the frozen model.
        concept: a ``Concept``, or its name.
        settings: see ``EraseSettings``.
        checkpoint: file to keep the erasure's state in while it runs; removed at the end.
        resume: go on from ``checkpoint`` if it is there. The increment is that of an uninterrupted run, to the bit on
            the same machine with as many threads.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: for settings out of range, an unknown scope, a concept that the tokenizer cannot represent, or a
            checkpoint of another erasure.
        ConceptRefused: where what is to be kept exactly says all that the concept does.
        FloatingPointError: where the training diverges.
    """
    (increment,) = erase_several(base, [concept], settings, checkpoint=checkpoint, resume=resume, progress=progress)
    return increment


def erase_several(
    base: Base,
    concepts: Sequence[Concept | str],
    settings: EraseSettings | Sequence[EraseSettings] | None = None,
    *,
    simultaneous: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> list[Increment]:
    """Erase several concepts in one run, each into its own increment; each ends by its own early stop.

    They share the batches of the U-Net and nothing else: an increment is that of a run of its own, up to the rounding
    of larger batches. Only the scope ``esd-x-strict`` allows it, where nothing but keys and values differs.

    Args:
        settings: for all, or for each its own, which differ in ``keep`` alone.
        simultaneous: train each under the increments of all instead (SepME's simultaneous optimisation, arXiv
            2402.05947, eq. 34-36); in any scope.

    Raises:
        ValueError: for several concepts in another scope, unless ``simultaneous``.

    The other arguments and errors are those of ``erase``.
    """
    each = list(settings) if isinstance(settings, Sequence) else [settings or EraseSettings()] * len(concepts)
    named = [Concept(concept) if isinstance(concept, str) else concept for concept in concepts]
    _require_one_run([concept.name for concept in named], each, simultaneous)
    beside = [concept.name for concept in named] if simultaneous else []
    base.forget_peak_memory()
    erasures = [Erasure(base, concept, one, beside) for concept, one in zip(named, each, strict=True)]
    checkpoint = None if checkpoint is None else Path(checkpoint)
    if resume and checkpoint is not None and checkpoint.exists():
        _resume(erasures, checkpoint)
    with recomputed(base.unet) if each[0].gradient_checkpointing else contextlib.nullcontext():
        _run(erasures, erasures if simultaneous else [], checkpoint, progress)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return [erasure.increment() for erasure in erasures]


def _require_one_run(names: Sequence[str], each: Sequence[EraseSettings], simultaneous: bool) -> None:
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"give each concept once: {list(names)}")
    settings = each[0]
    if any(dataclasses.replace(one, keep=settings.keep) != settings for one in each):
        raise ValueError("concepts of one run have the same settings but for what is kept")
    if simultaneous and settings.gradient_checkpointing:
        raise ValueError("gradient_checkpointing is for concepts that are not trained simultaneously")
    if len(names) > 1 and settings.scope != "esd-x-strict" and not simultaneous:
        raise ValueError(
            f"scope {settings.scope!r} changes weights that all samples of a batch share: erase one concept at a time"
        )


def _run(erasures: Sequence[Erasure], under: Sequence[Erasure], checkpoint: Path | None, progress: bool) -> None:
    settings, names = erasures[0].settings, ", ".join(erasure.concept.name for erasure in erasures)
    step = saved = max(erasure.step for erasure in erasures)
    with tqdm(total=settings.steps, initial=step, desc=f"erasing {names}", disable=not progress) as bar:
        while step < settings.steps and not all(erasure.finished for erasure in erasures):
            steps = range(step, min(step + settings.steps_ahead, settings.steps))
            for _ in _learn(erasures, steps, under):
                step += 1
                bar.update()
                bar.set_postfix(degree=", ".join(f"{e.degree.average:.2f}" for e in erasures), refresh=False)
            # Between batches sampled together, so that a resumed run samples the very same batches.
            done = all(erasure.finished for erasure in erasures)
            if checkpoint is not None and not done and step >= saved + CHECKPOINT_STEPS:
                _save_checkpoint(erasures, checkpoint)
                saved = step


def _learn(erasures: Sequence[Erasure], steps: range, under: Sequence[Erasure]) -> Iterator[None]:
    """Steps whose latents are sampled together; fewer, where all erasures finish."""
    learning = [erasure for erasure in erasures if not erasure.finished]
    began = time.perf_counter()
    batches = []
    for erasure in learning:
        with torch.no_grad():
            ask = erasure.settings.schedule == "student"
            weights = together([e.student for e in under or [erasure]]) if ask else {}
        batches.append(erasure.examples.batches(steps, weights))
    for index in range(len(steps)):
        left = [(e, of_one[index]) for e, of_one in zip(learning, batches, strict=True) if not e.finished]
        if not left:
            break
        descend(*zip(*left, strict=True), under)
        yield
    for erasure in learning:
        erasure.seconds += (time.perf_counter() - began) / len(learning)


def _save_checkpoint(erasures: Sequence[Erasure], path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    torch.save([erasure.state_dict() for erasure in erasures], temporary)
    os.replace(temporary, path)


def _resume(erasures: Sequence[Erasure], path: Path) -> None:
    states = torch.load(path, weights_only=True, map_location=erasures[0].base.device)
    there, here = [state["key"] for state in states], [erasure._key() for erasure in erasures]
    if there != here:
        raise ValueError(
            f"{path} is the checkpoint of another erasure, with other settings:\n  there: {there}\n  here:  {here}\n"
            "use the same settings, or delete the file to start over"
        )
    for erasure, state in zip(erasures, states, strict=True):
        erasure.load_state_dict(state)
    step = max(erasure.step for erasure in erasures)
    logger.info("resumed %r at step %d", [erasure.concept.name for erasure in erasures], step)
