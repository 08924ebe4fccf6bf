"""Erasing one concept: the one training loop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import multierase
from multierase.base import Base, Fingerprint
from multierase.concepts import Concept, to_keep
from multierase.decoupling import Directions, directions, gram
from multierase.erase_settings import EraseSettings
from multierase.increments import Increment, gram_factor
from multierase.objectives import REGULARIZERS, concept_correlation, erasure_degree, esd_target, squared_error
from multierase.stopping import MomentumStop
from multierase.student import Student, together
from multierase.trajectories import Batch, EvaluationCounter, denoise_partway

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
        """``beside``: names of concepts that are erased in the same run."""
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
            self.directions = directions(*tokens, kept, tolerance=settings.tolerance, ridge=settings.ridge)
        self.student = Student(base, settings.scope, self.directions and self.directions.basis)
        self.optimizer = torch.optim.Adam(self._parameter_groups())
        self.kept = [*settings.keep, *to_keep(known, concept.name, *beside)] if settings.keep_weight else []
        on_degree, at = settings.stop_on == "degree", settings.stop_at
        self.degree = MomentumStop(at if on_degree else None, settings.momentum)
        # As SepME's code: seeded by its first value, and not in the first ten steps.
        self.correlation = MomentumStop(None if on_degree else at, settings.momentum, average=None, wait=10)
        self.evaluations = EvaluationCounter()
        self.scheduler = base.sampler(settings.sampler_steps)
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

    def _noise(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """A step's noise, stops, and choices of prompts to erase and to keep: a function of seed and step alone, so
        that a resumed erasure and an uninterrupted one draw the same."""
        settings = self.settings
        seed = int.from_bytes(hashlib.sha256(f"{settings.seed}/{step}".encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(settings.batch_size, *self.base.latent_shape, generator=generator)
        stops = torch.randint(settings.sampler_steps, (settings.batch_size,), generator=generator)
        prompts = torch.randint(len(self.concept.prompts), (settings.batch_size,), generator=generator)
        kept = torch.randint(max(len(self.kept), 1), (settings.batch_size,), generator=generator)
        return noise.to(self.base.device), stops, prompts, kept

    @torch.no_grad()
    def batches(self, steps: range, weights: Mapping[str, torch.Tensor]) -> list[Batch]:
        """The examples of ``steps``, sampled together; the student schedule's under ``weights``."""
        draws = [self._noise(step) for step in steps]
        noise, stops, choices, kept_choices = (torch.cat(part) for part in zip(*draws, strict=True))
        prompts = [self.concept.prompts[i] for i in choices.tolist()]
        encode = self.base.text
        text, null = encode(prompts), encode([""] * len(prompts))
        sampling = weights if self.settings.schedule == "student" else None

        def predict(x_t, t, text):
            self.evaluations.forward += len(x_t)
            return self.base.predict_noise(x_t, t, text, sampling)

        def predict_frozen(text):
            self.evaluations.forward += len(text)
            return self.base.predict_noise(x_t, t, text)

        x_t, t = denoise_partway(predict, self.scheduler, noise, stops, text, null, self.settings.guidance_scale)
        contexts = [self.concept.contexts[i] for i in choices.tolist()]
        context = encode(contexts)
        eps_concept, eps_null = predict_frozen(text), predict_frozen(context)
        anchor = self.concept.target_prompt
        eps_anchor = predict_frozen(encode([anchor] * len(prompts))) if anchor else eps_null
        target = esd_target(eps_anchor, eps_concept, eps_null, self.settings.eta)
        prompted = text if self.concept.erase_from is None else encode([self.concept.erase_from] * len(prompts))
        kept = encode([self.kept[i] for i in kept_choices.tolist()]) if self.kept else text[:0]
        eps_kept = predict_frozen(kept) if self.kept else eps_null[:0]
        parts = (
            part.split(self.settings.batch_size) if len(part) else [part] * len(steps)
            for part in (x_t, t, prompted, context, target, eps_concept, eps_null, kept, eps_kept)
        )
        return [Batch(*tensors) for tensors in zip(*parts, strict=True)]

    def loss(self, batch: Batch, weights: Mapping[str, torch.Tensor]) -> Loss:
        """Under ``weights``: the student's, or those of several students together."""
        if self.evaluations.step_cost == 0:
            self.evaluations.step_cost = self._measure_step(batch)
        texts, count = [batch.text], len(batch.x_t)
        # What the empty prompt says is exactly the base's under decoupling; else the student's own has to be asked.
        ask_null = self.settings.objective == "correlation" and not self.settings.decouple
        texts += [batch.null] * ask_null + [batch.kept] * (len(batch.kept) > 0)
        eps = self.base.predict_noise(
            batch.x_t.repeat(len(texts), 1, 1, 1), batch.t.repeat(len(texts)), torch.cat(texts), weights
        )
        eps_student, *rest = eps.split(count)
        eps_student_null = rest.pop(0) if ask_null else batch.eps_null
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

    def _measure_step(self, batch: Batch) -> float:
        """Floating-point operations of forward and backward, in forwards."""
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            self.base.predict_noise(batch.x_t, batch.t, batch.text)
        with FlopCounterMode(display=False) as both:
            self.base.predict_noise(batch.x_t, batch.t, batch.text, together([self.student])).float().sum().backward()
        self.optimizer.zero_grad()
        return both.get_total_flops() / forward.get_total_flops()

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
        self.evaluations = EvaluationCounter(**state["evaluations"])
        self.step, self.seconds, self.finished = state["step"], state["seconds"], state["finished"]

    def _key(self) -> str:
        """What must be the same for a checkpoint to be of this erasure."""
        parts = dict(
            concept=dataclasses.asdict(self.concept), settings=dataclasses.asdict(self.settings), base=self.base.name,
            dtype=str(self.base.dtype),
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


def descend(erasures: Sequence[Erasure], batches: Sequence[Batch]) -> None:
    """One optimiser step of every erasure that is not finished, under the increments of all.

    Several are balanced as in SepME, eq. 35: ``Σ η_i L_i`` with ``η_i = max_k |L_k| / |L_i|``.

    Raises:
        FloatingPointError: where a loss is not finite.
    """
    weights = together([erasure.student for erasure in erasures])
    learning = [(e, batch) for e, batch in zip(erasures, batches, strict=True) if not e.finished]
    losses = [erasure.loss(batch, weights) for erasure, batch in learning]
    sizes = [loss.own.detach().abs().clamp_min(torch.finfo(torch.float32).tiny) for loss in losses]
    for erasure, _ in learning:
        erasure.optimizer.zero_grad()
    sum(max(sizes) / size * loss.own + loss.others for size, loss in zip(sizes, losses, strict=True)).backward()
    for (erasure, _), loss in zip(learning, losses, strict=True):
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
    (increment,) = erase_simultaneously(
        base, [concept], settings, checkpoint=checkpoint, resume=resume, progress=progress
    )
    return increment


def erase_simultaneously(
    base: Base,
    concepts: Sequence[Concept | str],
    settings: EraseSettings | None = None,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> list[Increment]:
    """Erase several concepts in one run, each into its own increment, under the increments of all (SepME's
    simultaneous optimisation, arXiv 2402.05947, eq. 34-36). Each ends by its own early stop.

    Arguments and errors are those of ``erase``.
    """
    settings = settings or EraseSettings()
    named = [Concept(concept) if isinstance(concept, str) else concept for concept in concepts]
    names = [concept.name for concept in named]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"give each concept once: {names}")
    erasures = [Erasure(base, concept, settings, beside=names) for concept in named]
    checkpoint = None if checkpoint is None else Path(checkpoint)
    if resume and checkpoint is not None and checkpoint.exists():
        _resume(erasures, checkpoint)
    step = saved = max(erasure.step for erasure in erasures)
    with tqdm(total=settings.steps, initial=step, desc=f"erasing {', '.join(names)}", disable=not progress) as bar:
        while step < settings.steps and not all(erasure.finished for erasure in erasures):
            steps = range(step, min(step + settings.steps_ahead, settings.steps))
            for _ in _learn(erasures, steps):
                step += 1
                bar.update()
                bar.set_postfix(degree=", ".join(f"{e.degree.average:.2f}" for e in erasures), refresh=False)
            # Between batches sampled together, so that a resumed run samples the very same batches.
            done = all(erasure.finished for erasure in erasures)
            if checkpoint is not None and not done and step >= saved + CHECKPOINT_STEPS:
                _save_checkpoint(erasures, checkpoint)
                saved = step
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return [erasure.increment() for erasure in erasures]


def _learn(erasures: Sequence[Erasure], steps: range) -> Iterator[None]:
    """Steps whose latents are sampled together; fewer, where all erasures finish."""
    learning = [erasure for erasure in erasures if not erasure.finished]
    began = time.perf_counter()
    with torch.no_grad():
        weights = together([erasure.student for erasure in erasures])
    sampled = {id(erasure): erasure.batches(steps, weights) for erasure in learning}
    for index in range(len(steps)):
        left = [e for e in learning if not e.finished]
        if not left:
            break
        descend(erasures, [sampled[id(e)][index] if e in left else None for e in erasures])
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
