"""How to erase one concept, or several: the settings of the training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from multierase.errors import suggest
from multierase.models.scopes import scope_names

Schedule = Literal["pooled", "frozen", "student"]
Statistic = Literal["unseen", "degree", "correlation"]
Regularizer = Literal["none", "l1", "l2"]
Optimizer = Literal["adam", "adam8bit"]
Asks = Literal["guidance", "pictures", "nothing"]
"""What a method learns of the denoiser."""


@dataclass(frozen=True)
class EraseSettings:
    """The settings of an erasure.

    Args:
        kind: how people speak of the concept: a shipped kind, one that the base brings, or a YAML
            file. Its sentences are tried and trained with, and the dictionary is kept beside it.
            ``auto`` takes the base's own, else ``artist``; ``none`` takes no sentences and keeps no
            dictionary.
        siblings: names like the concept's that are to stay; they weigh more in training and solve.
            By default the nearest of the kind's names and of the library.
        scope: which weights may change; each family of models has its own list. By default the
            kind's.
        schedule: where the latents ``x_t`` come from. ``pooled``: from every point of a few
            trajectories of the frozen base, whose guidance has made the predictions that the target
            needs; the points are used again and again. ``frozen`` (the authors' later code):
            from a new trajectory for every latent, whose other points are not used. ``student``
            (the paper): the same, sampled from the erased model itself.
        trajectories: number of trajectories of the pooled schedule, with ``sampler_steps`` points
            each.
        prompts_per_point: number of the concept's prompts that are asked for at each point of the
            pooled schedule: the trajectory's own and others. These three bound the memory of the
            pool.
        start_at: the erasure degree that separated parameters start from in closed form: 1 is the
            base itself, 0 gives the concept's tokens the keys and values of their contexts, -1
            moves them as far again. By default -1, and for a transformer 1.
        eta: strength of the negative guidance, the paper's ``η``; by default the kind's, else 3.
        steps: the most optimiser steps; the early stop may end an erasure sooner. By default 40,
            and for a transformer 100.
        batch_size: latents in a step.
        learning_rate: Adam's learning rate for separated parameters, such as keys and values: one
            step moves the concept's tokens by about as much. By default a fixed share of each
            layer's start, so that it fits the base; for a transformer 0.4.
        free_learning_rate: Adam's learning rate for all other weights; by default half a percent of
            each tensor's root mean square.
        optimizer: ``adam``, or ``adam8bit``, whose two moments take a quarter of the memory and
            which needs bitsandbytes.
        rank: train matrices that train freely as two factors of this rank, 0 for all their numbers.
            By default 16 where the scope's increment would take two gigabytes or more, else 0.
            Convolutions and vectors are always trained whole.
        stop_at: stop when the moving average of ``stop_on`` is at or below this; null takes all
            steps.
        stop_on: the erasure degree of ``unseen`` sentences, the ``degree`` of the training's own,
            or, as in SepME, the ``correlation`` itself, whose scale is the model's.
        momentum: momentum of the moving average of ``stop_on``.
        sampler_steps: DDIM steps of a whole trajectory; a latent is taken from a random one.
        sampling_batch: latents sampled at once, and trained on at once where several concepts share
            a run; a smaller value needs less memory.
        guidance_scale: guidance of the sampling that makes the latents.
        gradient_checkpointing: keep few activations of a training step and compute the rest again.
            It costs about one more evaluation a step, for a large model on a small GPU.
        regularizer: norm of the increment that is added to the loss: ``none``, ``l1`` (SepME), or
            ``l2``.
        beta: weight of the regularizer.
        decouple: train parameters that read the text alone only in directions of the concept's
            tokens that leave the empty prompt and ``keep`` exactly as they are. Other parameters of
            the scope train freely.
        keep: prompts that must not change at all, beside the empty one.
        keep_weight: weight of a second loss, which holds predictions for prompts drawn from
            ``keep`` and the known ones to the base's, on the same latents.
        known: use the prompts that the base's own folder lists in ``prompts.csv``, if it does.
            Sentences about a concept that is given by its name alone are erased with it, and
            all other listed prompts change as little as possible.
        tolerance: directions of the concept with a singular value below this share of the largest
            are not used.
        ridge: ridge of the separation from the known prompts, in units of their mean variance.
        robust: rounds in which sentences that still call the concept up are searched, and trained
            with. Each round takes about as long as the erasure again.
        seed: seed of everything random.

    Raises:
        ValueError: for values out of range; all of them at once.
    """

    kind: str = "auto"
    siblings: tuple[str, ...] = ()
    scope: str | None = None
    schedule: Schedule = "pooled"
    trajectories: int = 8
    prompts_per_point: int = 2
    start_at: float | None = None
    eta: float | None = None
    steps: int | None = None
    batch_size: int = 4
    learning_rate: float | None = None
    free_learning_rate: float | None = None
    optimizer: Optimizer = "adam"
    rank: int | None = None
    stop_at: float | None = -1.0
    stop_on: Statistic = "degree"
    momentum: float = 0.9
    sampler_steps: int = 10
    sampling_batch: int = 64
    guidance_scale: float = 3.0
    gradient_checkpointing: bool = False
    regularizer: Regularizer = "none"
    beta: float = 1e-6
    decouple: bool = True
    keep: tuple[str, ...] = ()
    keep_weight: float = 0.0
    known: bool = True
    tolerance: float = 0.05
    ridge: float = 1e-3
    robust: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", tuple(self.keep))
        object.__setattr__(self, "siblings", tuple(self.siblings))
        problems = list(self._problems())
        if problems:
            raise ValueError("erase settings: " + "; ".join(problems))

    @property
    def steps_ahead(self) -> int:
        """Steps whose latents are sampled together; the student samples each step's anew."""
        if self.schedule == "student":
            return 1

        return max(1, self.sampling_batch // self.batch_size)

    def _problems(self) -> Iterator[str]:
        yield from self._wrong_choices()
        counts = "steps", "batch_size", "trajectories", "prompts_per_point", "sampler_steps"
        for name in (*counts, "sampling_batch"):
            count = getattr(self, name)
            if count is not None and count < 1:
                yield f"{name} is {count}, give 1 or more"
        for name in ("learning_rate", "free_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not (math.isfinite(rate) and rate > 0):
                yield f"{name} is {rate}, give a positive number"

        if self.robust < 0:
            yield f"robust is {self.robust}, give a number of rounds, or 0 for none"
        if self.rank is not None and self.rank < 0:
            yield f"rank is {self.rank}, give 1 or more, or 0 for all numbers"
        if not 0 <= self.momentum < 1:
            yield f"momentum is {self.momentum}, give 0 or more and less than 1"
        for name in ("eta", "guidance_scale", "start_at", "stop_at"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                yield f"{name} is {value}, give a finite number"
        for name in ("beta", "keep_weight", "tolerance", "ridge"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                yield f"{name} is {value}, give a finite number, 0 or more"

    def _wrong_choices(self) -> Iterator[str]:
        scopes = scope_names()
        if self.scope is not None and self.scope not in scopes:
            yield f"unknown scope {self.scope!r}{suggest(self.scope, scopes)}; scopes: {scopes}"

        choices = {
            "schedule": Schedule,
            "stop_on": Statistic,
            "regularizer": Regularizer,
            "optimizer": Optimizer,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                yield f"{name} is {getattr(self, name)!r}, give one of {list(get_args(allowed))}"
