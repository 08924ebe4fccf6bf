"""Unified Concept Editing (arXiv 2308.14761): edit what reads the text in closed form."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, closed
from multierase.methods.closed import Edit, Pair
from multierase.models.model import Model
from multierase.prompts.concepts import Concept

RIDGE = 0.5  # λ of the authors' present code


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Edit the weights for each concept alone; what the keep-lists name is preserved."""
    return closed.produce(model, order, "uce", _solve, {"ridge": RIDGE})


def edit(
    model: Model,
    concepts: Sequence[Concept],
    erased: Collection[str],
    pairs: dict[str, Pair] | None = None,
) -> dict[str, torch.Tensor]:
    """Solve for the weights of every parameter that reads the text alone (eq. 7).

    ``W* = (λW + Σ W g cᵀ + Σ W p pᵀ)(λ + Σ c cᵀ + Σ p pᵀ)⁻¹`` with ``c`` the tokens of the erased
    sentences from the last word on, ``g`` those of the sentences without the concept, aligned at
    the end as in the authors' first code, and ``p`` the same tokens of the kept sentences.

    Args:
        concepts: with their sentences and contexts.
        erased: names of those that are edited; the sentences of the others are preserved.
        pairs: by concept the tokens, kept from one call to the next.

    Returns:
        By parameter its new values, float64, on the CPU.
    """
    readers, parameters = model.readers, model.parameters()
    cache: dict[str, Pair] = {} if pairs is None else pairs
    transfers = {}
    for stream in model.streams:
        edits = []
        for concept in concepts:
            old, new = _pair(model, concept, stream, cache)
            edits.append((old, new if concept.name in erased else old))
        transfers[stream] = _transfer(edits)

    weights = {}
    for name, stream in readers.items():
        frozen = parameters[name].detach().cpu().double()
        weights[name] = frozen @ transfers[stream]

    return weights


def _solve(asked: Edit) -> dict[str, torch.Tensor]:
    """Return ``W* − W`` for one concept."""
    preserved = [Concept("(preserved)", asked.kept)] if asked.kept else []
    weights = edit(asked.model, [*preserved, asked.concept], [asked.concept.name])

    return {name: weight - asked.weight(name) for name, weight in weights.items()}


def _transfer(pairs: Sequence[Pair]) -> torch.Tensor:
    """Return ``T`` ``(d, d)`` with ``W* = W T``."""
    old, new = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    ridge = RIDGE * torch.eye(old.shape[1], dtype=torch.float64)

    return torch.linalg.solve(ridge + old.T @ old, ridge + old.T @ new).T


def _pair(model: Model, concept: Concept, stream: str, cache: dict[str, Pair]) -> Pair:
    """Return a concept's tokens and those to take their place, from the cache if they are there."""
    key = f"{stream}/{concept.name}/{len(concept.prompts)}"
    if key not in cache:
        cache[key] = closed.pair(model, concept, stream)

    return cache[key]
