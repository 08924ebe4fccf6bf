"""Erasing one concept: the one training loop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import multierase
from multierase.base import Base, Fingerprint
from multierase.concepts import Concept, to_keep
from multierase.decoupling import directions, gram
from multierase.increments import SCOPES, Increment, gram_factor, suggest
from multierase.objectives import REGULARIZERS, concept_correlation, erasure_degree, esd_target, squared_error
from multierase.stopping import MomentumStop
from multierase.student import Student
from multierase.trajectories import Batch, EvaluationCounter, denoise_partway

logger = logging.getLogger(__name__)

CHECKPOINT_STEPS = 16  # at the least, between two checkpoints


@dataclass(frozen=True)
class EraseSettings:
    """How to erase.

    Args:
        scope: which weights may change: see ``multierase.increments.SCOPES``.
        objective: ``esd`` (arXiv 2303.07345, eq. 7) or ``correlation`` (SepME, arXiv 2402.05947, eq. 28), which has no
            lower bound: it needs the early stop.
        schedule: who makes the latents ``x_t``: ``student`` (the paper: the student itself, afresh for every step) or
            ``frozen`` (the authors' later code: the frozen base, which lets many be sampled in one batch).
        eta: strength of the negative guidance, the paper's ``η``.
        steps: the most optimiser steps; the erasure degree ends most erasures earlier.
        batch_size: latents a step.
        learning_rate: of Adam, for decoupled keys and values: a step of it moves the concept's tokens by as much.
        free_learning_rate: of Adam, for all other weights; null for half a percent of each tensor's root mean square.
        stop_at: end when the moving average of ``stop_on`` has fallen to this; null for all the steps.
        stop_on: the erasure ``degree``, which has no units, or, as in SepME, the ``correlation`` itself, whose scale is
            the model's.
        momentum: of that average.
        sampler_steps: DDIM steps of a whole trajectory; a latent is taken from a random one of them.
        sampling_batch: latents that the frozen schedule samples at once, for several steps ahead; bounds the memory.
        guidance_scale: of the sampling that makes the latents.
        regularizer: norm of the increment that is added to the loss: ``none``, ``l1`` (SepME) or ``l2``.
        beta: its weight.
        decouple: train keys and values only in directions of the concept's tokens that leave the empty prompt and
            ``keep`` exactly as they are. Other weights of the scope train freely.
        keep: prompts that must not change at all, beside the empty one.
        keep_weight: weight of a second loss, that predictions for prompts drawn from ``keep`` and the known ones stay
            the base's, on the same latents.
        known: use the prompts that the base's own folder lists in ``prompts.csv``, if it does: sentences about a
            concept given by its name alone are erased with it, and the rest is to change as little as can be.
        tolerance: of the decoupling: directions of the concept with less than this share of the largest are not used.
        ridge: of the decoupling from the known prompts: see ``multierase.decoupling.directions``.
        seed: of everything random.
    """

    scope: str = "esd-x-strict"
    objective: Literal["esd", "correlation"] = "esd"
    schedule: Literal["student", "frozen"] = "frozen"
    eta: float = 3.0
    steps: int = 240
    batch_size: int = 4
    learning_rate: float = 5e-2
    free_learning_rate: float | None = None
    stop_at: float | None = -0.9
    stop_on: Literal["degree", "correlation"] = "degree"
    momentum: float = 0.9
    sampler_steps: int = 10
    sampling_batch: int = 64
    guidance_scale: float = 3.0
    regularizer: Literal["none", "l1", "l2"] = "none"
    beta: float = 1e-6
    decouple: bool = True
    keep: tuple[str, ...] = ()
    keep_weight: float = 10.0
    known: bool = True
    tolerance: float = 0.05
    ridge: float = 1e-3
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "keep", tuple(self.keep))
        problems = list(self._problems())
        if problems:
            raise ValueError("erase settings: " + "; ".join(problems))

    @property
    def steps_ahead(self) -> int:
        """Steps whose latents are sampled together; the student must sample each step's own."""
        return 1 if self.schedule == "student" else max(1, self.sampling_batch // self.batch_size)

    def _problems(self):
        if self.scope not in SCOPES:
            yield f"unknown scope {self.scope!r}{suggest(self.scope, SCOPES)}; scopes: {sorted(SCOPES)}"
        choices = {
            "objective": ("esd", "correlation"),
            "schedule": ("frozen", "student"),
            "stop_on": ("degree", "correlation"),
            "regularizer": ("none", *sorted(REGULARIZERS)),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                yield f"{name} is {getattr(self, name)!r}, give one of {list(allowed)}"
        for name in ("steps", "batch_size", "sampler_steps", "sampling_batch"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}, give 1 or more"
        for name in ("learning_rate", "free_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not (math.isfinite(rate) and rate > 0):
                yield f"{name} is {rate}, give a positive number"
        if not 0 <= self.momentum < 1:
            yield f"momentum is {self.momentum}, give 0 or more and less than 1"
        for name in ("eta", "guidance_scale", "beta", "keep_weight", "stop_at", "tolerance", "ridge"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                yield f"{name} is {value}, give a finite number"


class Erasure:
    """One erasure under way: its student, optimiser and stop; what a checkpoint holds."""

    def __init__(self, base: Base, concept: Concept, settings: EraseSettings):
        known = base.known_prompts if settings.known else []
        concept = concept.with_sentences(known)
        for prompt in (*concept.prompts, concept.erase_from, concept.anchor):
            if prompt:
                base.text.require_representable(prompt)
        self.base, self.concept, self.settings = base, concept, settings
        self.known = to_keep(known, concept.name)
        self.exact = ["", *settings.keep] if settings.decouple else []
        basis = None
        if settings.decouple:
            tokens = [base.text(prompts).flatten(0, 1).cpu() for prompts in (list(concept.prompts), self.exact)]
            kept = gram(base.text(self.known).flatten(0, 1).cpu()) if self.known else None
            basis = directions(*tokens, kept, tolerance=settings.tolerance, ridge=settings.ridge)
        self.student = Student(base, settings.scope, basis)
        self.optimizer = torch.optim.Adam(self._parameter_groups())
        self.kept = [*settings.keep, *self.known] if settings.keep_weight else []
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
    def batches(self, steps: range) -> list[Batch]:
        """The examples of ``steps``, sampled together."""
        draws = [self._noise(step) for step in steps]
        noise, stops, choices, kept_choices = (torch.cat(part) for part in zip(*draws, strict=True))
        prompts = [self.concept.prompts[i] for i in choices.tolist()]
        encode = self.base.text
        text, null = encode(prompts), encode([""] * len(prompts))
        weights = self.student.weights() if self.settings.schedule == "student" else None

        def predict(x_t, t, text):
            self.evaluations.forward += len(x_t)
            return self.base.predict_noise(x_t, t, text, weights)

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

    def learn(self, batch: Batch) -> None:
        """One optimiser step. Raises ``FloatingPointError`` where the loss is not finite."""
        if self.evaluations.step_cost == 0:
            self.evaluations.step_cost = self._measure_step(batch)
        texts, count = [batch.text], len(batch.x_t)
        # What the empty prompt says is exactly the base's under decoupling; else the student's own has to be asked.
        ask_null = self.settings.objective == "correlation" and not self.settings.decouple
        texts += [batch.null] * ask_null + [batch.kept] * (len(batch.kept) > 0)
        eps = self.base.predict_noise(
            batch.x_t.repeat(len(texts), 1, 1, 1), batch.t.repeat(len(texts)), torch.cat(texts), self.student.weights()
        )
        eps_student, *rest = eps.split(count)
        eps_student_null = rest.pop(0) if ask_null else batch.eps_null
        correlation = concept_correlation(eps_student, eps_student_null, batch.eps_concept, batch.eps_null)
        loss = correlation if self.settings.objective == "correlation" else squared_error(eps_student, batch.target)
        if rest:
            loss = loss + self.settings.keep_weight * squared_error(rest[0], batch.eps_kept)
        if self.settings.regularizer != "none":
            penalty = REGULARIZERS[self.settings.regularizer](map(self.student.delta, self.student.variables))
            loss = loss + self.settings.beta * penalty
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"erasing {self.concept.name!r}: the loss is {loss.item()} at step {self.step}: lower the "
                "learning rate or use float32"
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.evaluations.trained += len(eps)
        self.step += 1
        degree = erasure_degree(eps_student.detach(), batch.eps_concept, batch.eps_null).item()
        stops = self.degree.update(degree), self.correlation.update(correlation.item())
        self.finished = any(stops)

    def _measure_step(self, batch: Batch) -> float:
        """Floating-point operations of forward and backward, in forwards."""
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            self.base.predict_noise(batch.x_t, batch.t, batch.text)
        with FlopCounterMode(display=False) as both:
            self.base.predict_noise(batch.x_t, batch.t, batch.text, self.student.weights()).float().sum().backward()
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
        }

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            for name, variable in self.student.variables.items():
                variable.copy_(state["variables"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.degree, self.correlation = (MomentumStop(**state[name]) for name in ("degree", "correlation"))
        self.evaluations = EvaluationCounter(**state["evaluations"])
        self.step, self.seconds = state["step"], state["seconds"]

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
        }
        gram = gram_factor(self.base.text.own_tokens(prompts).cpu())
        return Increment(self.student.deltas(), Fingerprint.of(self.base.name, self.student.frozen), info, gram)


def _summary(exact: list[str], known: list[str]) -> dict:
    """A keep-list as an increment file states it: a long one by its length and digest."""
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
    return {"exactly": exact, "known": {"prompts": len(known), "sha256": digest}}


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
        FloatingPointError: where the training diverges.
    """
    concept = Concept(concept) if isinstance(concept, str) else concept
    erasure = Erasure(base, concept, settings or EraseSettings())
    checkpoint = None if checkpoint is None else Path(checkpoint)
    if resume and checkpoint is not None and checkpoint.exists():
        _resume(erasure, checkpoint)
    total, ahead, saved = erasure.settings.steps, erasure.settings.steps_ahead, erasure.step
    with tqdm(total=total, initial=erasure.step, desc=f"erasing {concept.name}", disable=not progress) as bar:
        while erasure.step < total and not erasure.finished:
            began, first = time.perf_counter(), erasure.step
            for batch in erasure.batches(range(first, min(first + ahead, total))):
                erasure.learn(batch)
                bar.update()
                bar.set_postfix(degree=f"{erasure.degree.average:.2f}", refresh=False)
                if erasure.finished:
                    break
            erasure.seconds += time.perf_counter() - began
            # Between batches sampled together, so that a resumed run samples the very same batches.
            if checkpoint is not None and not erasure.finished and erasure.step >= saved + CHECKPOINT_STEPS:
                _save_checkpoint(erasure, checkpoint)
                saved = erasure.step
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return erasure.increment()


def _save_checkpoint(erasure: Erasure, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    torch.save(erasure.state_dict(), temporary)
    os.replace(temporary, path)


def _resume(erasure: Erasure, path: Path) -> None:
    state = torch.load(path, weights_only=True, map_location=erasure.base.device)
    if state["key"] != erasure._key():
        raise ValueError(
            f"{path} is the checkpoint of another erasure, with other settings:\n  there: {state['key']}\n  here:  "
            f"{erasure._key()}\nuse the same settings, or delete the file to start over"
        )
    erasure.load_state_dict(state)
    logger.info("resumed %r at step %d", erasure.concept.name, erasure.step)
