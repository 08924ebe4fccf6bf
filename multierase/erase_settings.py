"""How to erase one concept, or several: the settings of the training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from multierase.increments import SCOPES, suggest
from multierase.objectives import REGULARIZERS


@dataclass(frozen=True)
class EraseSettings:
    """How to erase.

    Args:
        scope: which weights may change: see ``multierase.increments.SCOPES``.
        objective: ``esd`` (arXiv 2303.07345, eq. 7) or ``correlation`` (SepME, arXiv 2402.05947, eq. 28), which has no
            lower bound: it needs the early stop.
        schedule: where the latents ``x_t`` come from. ``pooled``: from every point of a few trajectories of the frozen
            base, whose guidance has made the predictions that the target needs; the points are used again and again.
            ``frozen`` (the authors' later code): each from a trajectory of its own, of which nothing else is used.
            ``student`` (the paper): the same, sampled from the student itself.
        trajectories: of the pooled schedule, of ``sampler_steps`` points each; these two bound the memory of the pool.
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
        sampling_batch: latents sampled at once, and trained on at once where several concepts share a run; bounds the
            memory.
        guidance_scale: of the sampling that makes the latents.
        gradient_checkpointing: keep few activations of a training step and compute the rest again: about one more
            evaluation a step, for a large model on a small GPU.
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
    schedule: Literal["pooled", "frozen", "student"] = "pooled"
    trajectories: int = 16
    eta: float = 3.0
    steps: int = 60
    batch_size: int = 4
    learning_rate: float = 1e-1
    free_learning_rate: float | None = None
    stop_at: float | None = -1.0
    stop_on: Literal["degree", "correlation"] = "degree"
    momentum: float = 0.9
    sampler_steps: int = 10
    sampling_batch: int = 64
    guidance_scale: float = 3.0
    gradient_checkpointing: bool = False
    regularizer: Literal["none", "l1", "l2"] = "none"
    beta: float = 1e-6
    decouple: bool = True
    keep: tuple[str, ...] = ()
    keep_weight: float = 0.0
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
            "schedule": ("pooled", "frozen", "student"),
            "stop_on": ("degree", "correlation"),
            "regularizer": ("none", *sorted(REGULARIZERS)),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                yield f"{name} is {getattr(self, name)!r}, give one of {list(allowed)}"
        for name in ("steps", "batch_size", "trajectories", "sampler_steps", "sampling_batch"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}, give 1 or more"
        for name in ("learning_rate", "free_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not (math.isfinite(rate) and rate > 0):
                yield f"{name} is {rate}, give a positive number"
        if self.gradient_checkpointing and self.scope != "esd-x-strict":
            yield f"gradient_checkpointing is for the scope 'esd-x-strict', given {self.scope!r}"
        if not 0 <= self.momentum < 1:
            yield f"momentum is {self.momentum}, give 0 or more and less than 1"
        for name in ("eta", "guidance_scale", "beta", "keep_weight", "stop_at", "tolerance", "ridge"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                yield f"{name} is {value}, give a finite number"
