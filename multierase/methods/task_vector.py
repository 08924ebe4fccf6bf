"""A negated task vector (arXiv 2212.04089): learn a concept better, then go the other way."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from tqdm import tqdm

from multierase.errors import Cancelled
from multierase.files import digest_bytes, plain
from multierase.increments.value import Delta, Increment
from multierase.methods import Order, Refusal, closed
from multierase.models.latents import noised
from multierase.models.model import Model
from multierase.prompts.concepts import Concept
from multierase.training.defaults import COURSES
from multierase.training.delta import Student, predictions
from multierase.training.objectives import squared_error
from multierase.training.optimizers import optimizer_class
from multierase.training.trajectories import trajectories
from multierase.training.watching import Progress

STRENGTH = 1.0  # λ: the whole vector, the largest of the values that the paper tries
FREE_RATE = 0.05  # of a weight's root mean square; with less, forty steps learn too little
STEP_COST = 3  # evaluations of a forward and a backward pass


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Fine-tune a scope's weights towards each concept, and yield ``−λ (θ_tuned − θ)``.

    It learns by the ordinary diffusion loss, from pictures that the base itself draws for the
    concept's sentences. These settings count: scope, steps, batch size, sampling batch (as many
    pictures), sampler steps, guidance scale, free learning rate, optimiser, rank and seed. No
    prompt is kept, as in the paper. A run that was cut off begins anew.

    Raises:
        Cancelled: if the order's ``watch`` has ended the run.
        ModelHeld: if concepts are erased on the model now, so that it is not the base.
        UsageError: for concepts to train simultaneously, or to erase from others alone.
        ValueError: for an unknown scope, or a concept that the tokenizer cannot represent.
    """
    concepts = closed.resolved(model, order, "task-vector")
    model.scope_parameters(order.settings.scope or model.exact_scope)  # raises early

    for concept in concepts:
        yield _Tuning(model, concept, order).increment()


class _Opposite:
    """What a run's watcher may look at: the increment so far, as a ``Student`` would have it."""

    def __init__(self, learner: Student):
        self.learner, self.frozen = learner, learner.frozen

    def delta(self, name: str) -> torch.Tensor:
        return -STRENGTH * self.learner.delta(name)


class _Tuning:
    """The fine-tuning of one concept."""

    def __init__(self, model: Model, concept: Concept, order: Order):
        self.model, self.concept, self.order = model, concept, order
        self.steps = order.settings.steps or COURSES[model.exact_scope].steps
        self.settings = dataclasses.replace(order.settings, steps=self.steps)
        self.scope = self.settings.scope or model.exact_scope
        self.learner = Student(
            model,
            model.scope_parameters(self.scope),
            readers={},
            directions={},
            rank=self.settings.rank or 0,
            seed=self.settings.seed,
        )
        self.student = _Opposite(self.learner)
        self.sampler = model.sampler(self.settings.sampler_steps)
        self.step = self.evaluations = 0

    def increment(self) -> Increment:
        """Train, and return the opposite of what was learned."""
        began = time.perf_counter()
        self.model.reset_peak_memory()
        pictures, prompts = self._drawn()
        self._train(pictures, prompts)

        learned: dict[str, Delta] = {}
        for name in self.learner.frozen:
            learned[name] = self.student.delta(name).detach().cpu()
        settings = {**dataclasses.asdict(self.settings), "strength": STRENGTH}

        return closed.increment_of(
            self.model,
            self.concept,
            learned,
            "task-vector",
            scope=self.scope,
            # Through JSON, so that the value equals what a file gives back.
            settings=json.loads(json.dumps(settings)),
            seconds=time.perf_counter() - began,
            evaluations=self.evaluations,
            seed=self.settings.seed,
        )

    def _drawn(self) -> tuple[torch.Tensor, list[str]]:
        """Let the base draw the concept: ``(n, c, h, w)`` latents, and their prompts."""
        settings, generator = self.settings, self._generator("pictures")
        count = min(settings.sampling_batch, self.steps * settings.batch_size)
        noise = torch.randn(count, *self.model.latent_shape, generator=generator)
        order = torch.randperm(len(self.concept.prompts), generator=generator).tolist()
        prompts = [self.concept.prompts[order[place % len(order)]] for place in range(count)]

        points = trajectories(
            self.model.predict,
            self.sampler,
            self.model.guide,
            noise.to(self.model.device),
            self.model.encode(prompts),
            self.model.encode([""] * count),
            settings.guidance_scale,
        )
        for index, (x_t, _, eps_concept, eps_null) in enumerate(points):
            self.evaluations += 2 * count
            guided = self.model.guide(eps_concept, eps_null, settings.guidance_scale)
            drawn = self.sampler.step(guided, index, x_t)

        return drawn.float(), prompts

    def _train(self, pictures: torch.Tensor, prompts: list[str]) -> None:
        settings, name = self.settings, plain(self.concept.name)
        optimizer = optimizer_class(settings.optimizer)(self._groups())
        with tqdm(
            total=self.steps, desc=f"learning {name}", disable=not self.order.progress
        ) as bar:
            for _ in range(self.steps):
                optimizer.zero_grad()
                self._learn(pictures, prompts)
                optimizer.step()
                self.step += 1
                bar.update()
                self._tell()

    def _learn(self, pictures: torch.Tensor, prompts: list[str]) -> None:
        """Let the gradients of one batch's diffusion loss flow to the learner's variables."""
        size, generator = self.settings.batch_size, self._generator(f"step {self.step}")
        chosen = torch.randint(len(pictures), (size,), generator=generator)
        stops = torch.randint(len(self.sampler.timesteps), (size,), generator=generator)
        noise = torch.randn(size, *self.model.latent_shape, generator=generator)
        here = pictures.device
        t = self.sampler.timesteps.to(here)[stops.to(here)]
        x_t, target = noised(self.model, pictures[chosen.to(here)], noise.to(here), t)

        text = self.model.encode([prompts[place] for place in chosen.tolist()])
        with predictions([self.learner], [(x_t, t, text)]) as (found,):
            loss = squared_error(found, target)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"learning {self.concept.name!r}: the loss is {loss.item()} at step "
                    f"{self.step}: lower the learning rate or use float32"
                )
            loss.backward()
        self.evaluations += STEP_COST * size

    def _groups(self) -> list[dict[str, Any]]:
        """Give each variable its learning rate."""
        groups = []
        for name, variable in self.learner.variables.items():
            like = self.learner.frozen.get(name, variable)
            size = like.detach().float().square().mean().sqrt().item()
            rate = self.settings.free_learning_rate or FREE_RATE * size
            groups.append({"params": [variable], "lr": rate})

        return groups

    def _tell(self) -> None:
        """Tell whoever watches; there is no erasure degree to show.

        Raises:
            Cancelled: if they have seen enough.
        """
        progress = Progress(
            self.step, self.steps, {self.concept.name: ()}, self.evaluations, [self._seen]
        )
        if self.order.watch is not None and not self.order.watch(progress):
            raise Cancelled(
                f"learning {plain(self.concept.name)} was ended at step {self.step} of {self.steps}"
            )

    @property
    def _seen(self) -> Any:
        return cast(Any, self)  # it has all of an erasure that a preview needs

    def _generator(self, what: str) -> torch.Generator:
        digest = digest_bytes(f"{self.settings.seed}/{what}", length=14)

        return torch.Generator().manual_seed(int(digest, 16))
