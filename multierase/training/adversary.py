"""Sentences that still call up an erased concept, searched for another round of training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from multierase.errors import UsageError
from multierase.increments.value import Factors, Increment
from multierase.models.conditioning import Conditioning
from multierase.models.model import Model, Weights
from multierase.models.soft_text import SoftText
from multierase.prompts.concepts import Concept
from multierase.training.plan import Plan
from multierase.training.trial import Points

SENTENCES = 8  # that a round adds
TOKENS = 3  # before a sentence
STEPS = 40  # of a search
POINTS = 2  # at which a step asks
RATE, DECAY = 0.1, 0.1  # of AdamW, as in Prompting4Debugging

Predict = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]


class TokenSearch:
    """Vectors in some places of a prompt, on their way to tokens (PEZ, arXiv 2302.03668).

    The loss is taken at the nearest tokens; its gradient moves the vectors.

    Args:
        places: the prompt's tokens, with ``None`` where one is searched.
        generator: draws the tokens that the search begins with.
    """

    def __init__(self, text: SoftText, places: Sequence[int | None], generator: torch.Generator):
        self.text, self.places = text, places
        ordinary = text.ordinary.nonzero()[:, 0].cpu()
        count = sum(place is None for place in places)
        drawn = ordinary[torch.randint(len(ordinary), [count], generator=generator)]
        self.vectors = text.vectors(drawn.tolist()).float().clone().requires_grad_()
        self.optimizer = torch.optim.AdamW([self.vectors], lr=RATE, weight_decay=DECAY)
        self._known = F.normalize(text.table.float(), dim=1)

    def step(
        self, predict: Predict, x_t: torch.Tensor, t: torch.Tensor, goal: torch.Tensor
    ) -> float:
        """Take one step; return the loss before it.

        Args:
            predict: of the model that is searched, given latents, times and one conditioning.
            x_t, goal: ``(b, c, h, w)``, latents and what is to be said of them.
            t: ``(b,)``.
        """
        nearest = self.text.vectors(self._nearest()).float().requires_grad_()
        with torch.enable_grad():
            asked = self.text.encode(self._whole(nearest)[None])
            loss = F.mse_loss(predict(x_t, t, asked), goal)
        self.optimizer.zero_grad()
        (self.vectors.grad,) = torch.autograd.grad(loss, [nearest])
        self.optimizer.step()

        return float(loss.detach())

    def ids(self) -> list[int]:
        """Return the prompt's tokens, with the nearest ones in the searched places."""
        found = iter(self._nearest())

        return [next(found) if place is None else place for place in self.places]

    @torch.no_grad()
    def _nearest(self) -> list[int]:
        alike = F.normalize(self.vectors, dim=1) @ self._known.T

        return alike.masked_fill(~self.text.ordinary, -torch.inf).argmax(dim=1).tolist()

    def _whole(self, searched: torch.Tensor) -> torch.Tensor:
        rows, found = [], iter(searched)
        for place in self.places:
            rows.append(next(found) if place is None else self.text.table[place].float())

        return torch.stack(rows)


@dataclass(frozen=True)
class Found:
    """Adversarial sentences, their contexts, and the evaluations that they took."""

    prompts: tuple[str, ...]
    contexts: tuple[str, ...]
    evaluations: int


def searchable(model: Model, plan: Plan) -> tuple[SoftText, Points]:
    """Return what a search for an erasure works with.

    Raises:
        UsageError: for a family with several text towers, or an erasure without a kind.
    """
    if plan.points is None:
        raise UsageError(
            "--robust searches with the sentences of a kind: give a --kind other than none"
        )

    return SoftText(model), plan.points


def adversarial(model: Model, plan: Plan, increment: Increment, seed: int) -> Found:
    """Search sentences that say to the erased model what the concept's say to the base.

    Before each of some of the concept's sentences ``s`` tokens ``a`` are put that minimise
    ``‖ε*(x_t, s) − ε_θ(x_t, [a; s])‖²`` at the points of the trial, as Prompting4Debugging does
    (arXiv 2309.06135). The context is ``[a; context of s]`` without the tokens of the concept's own
    name, so that what else the search has picked up stays. A sentence whose text would be read as
    other tokens is left out.

    Args:
        increment: what the last round has learned.
        seed: of the sentences and tokens that are drawn.

    Returns:
        Sentences for one more round; those that the concept has already are not among them.
    """
    (text, points), concept = searchable(model, plan), plan.concept
    weights = _changed(model, increment)
    own = {*text.ids(concept.name)}
    pairs = list(zip(concept.prompts, concept.contexts, strict=True))
    random.Random(f"{seed}/adversary").shuffle(pairs)
    generator = torch.Generator().manual_seed(seed)

    def predict(x_t: torch.Tensor, t: torch.Tensor, asked: Conditioning) -> torch.Tensor:
        return model.predict(x_t, t, asked.repeat(len(x_t)), weights)

    prompts: list[str] = []
    contexts: list[str] = []
    spent = 0

    for sentence, context in pairs[:SENTENCES]:
        rest = text.ids(sentence)[: text.most - TOKENS]
        search = TokenSearch(text, [*[None] * TOKENS, *rest], generator)
        with torch.no_grad():
            said = model.encode([sentence]).repeat(len(points.t))
            goal = model.predict(points.x_t, points.t, said)
        spent += len(points.t)

        for _ in range(STEPS):
            at = torch.randint(len(points.t), [POINTS], generator=generator)
            here = points.take(at.tolist())
            search.step(predict, here.x_t, here.t, goal[at])
            spent += 2 * POINTS

        ids = search.ids()
        written = text.text(ids)
        without = [index for index in ids[:TOKENS] if index not in own]
        if text.ids(written) == ids and written not in concept.prompts:
            prompts.append(written)
            contexts.append(f"{text.text(without)} {context}".strip())

    return Found(tuple(prompts), tuple(contexts), spent)


def with_found(concept: Concept, found: Found) -> Concept:
    """Return a concept that has the found sentences, too."""
    pairs = dict(zip(concept.prompts, concept.contexts, strict=True))
    pairs |= dict(zip(found.prompts, found.contexts, strict=True))

    return replace(concept, prompts=tuple(pairs), contexts=tuple(pairs.values()))


def _changed(model: Model, increment: Increment) -> Weights:
    """Return the values of the parameters that an increment changes."""
    here, weights = model.parameters(), {}
    for name, delta in increment.deltas.items():
        dense = delta.dense() if isinstance(delta, Factors) else delta
        frozen = here[name].detach()
        weights[name] = (frozen.float() + dense.to(frozen.device)).to(frozen.dtype)

    return weights
