"""Unified Concept Editing (arXiv 2308.14761): edit what reads the text in closed form."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

import multierase
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Cost, Provenance
from multierase.increments.value import Increment, gram_factor
from multierase.methods import Order, Refusal
from multierase.models.model import Model
from multierase.models.weights import require_free
from multierase.prompts.concepts import Concept
from multierase.prompts.lists import not_about
from multierase.training.closed_form import aligned, concept_tokens

RIDGE = 0.5  # λ of the authors' present code

Pair = tuple[torch.Tensor, torch.Tensor]


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Edit the weights for each concept alone; what the keep-lists name is preserved."""
    require_free(model)
    settings = order.settings
    known = model.known_prompts if settings.known else []
    for given in order.concepts:
        for prompt in given.with_sentences(known).prompts:
            model.require_representable(prompt)

    for given in order.concepts:
        began = time.perf_counter()
        concept = given.with_sentences(known)
        listed = [*known, *order.keep]
        kept = list(dict.fromkeys([*settings.keep, *not_about(listed, concept.name)]))
        preserved = [Concept("(preserved)", tuple(kept))] if kept else []

        weights = edit(model, [*preserved, concept], [concept.name])
        yield _increment(model, concept, weights, time.perf_counter() - began)


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


def _transfer(pairs: Sequence[Pair]) -> torch.Tensor:
    """Return ``T`` ``(d, d)`` with ``W* = W T``."""
    old, new = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    ridge = RIDGE * torch.eye(old.shape[1], dtype=torch.float64)

    return torch.linalg.solve(ridge + old.T @ old, ridge + old.T @ new).T


def _pair(model: Model, concept: Concept, stream: str, cache: dict[str, Pair]) -> Pair:
    """Return ``(n, d)`` tokens of a concept's sentences, and of those without it."""
    key = f"{stream}/{concept.name}/{len(concept.prompts)}"
    if key not in cache:
        old, new = [], []
        # A bare name has the empty context: its tokens become those of the empty prompt.
        for prompt, context in zip(concept.prompts, concept.contexts, strict=True):
            for with_it, without in aligned(model, prompt, context, stream):
                old.append(with_it)
                new.append(without)
        cache[key] = torch.cat(old).double(), torch.cat(new).double()

    return cache[key]


def _increment(
    model: Model, concept: Concept, weights: Mapping[str, torch.Tensor], seconds: float
) -> Increment:
    here = model.parameters()
    frozen = {name: here[name] for name in weights}
    deltas = {}
    for name, weight in weights.items():
        deltas[name] = (weight - frozen[name].detach().cpu().double()).float()

    provenance = Provenance(
        concept=concept.name,
        prompts=concept.prompts,
        contexts=concept.contexts,
        method="uce",
        scope=model.exact_scope,
        settings={"ridge": RIDGE},
        version=multierase.__version__,
        cost=Cost(0, round(seconds, 2), model.peak_memory()),
    )
    return Increment(
        deltas=deltas,
        base=Fingerprint.of(model.name, model.family, frozen),
        provenance=provenance,
        grams={s: gram_factor(concept_tokens(model, concept, s)) for s in model.streams},
        readers={name: stream for name, stream in model.readers.items() if name in deltas},
    )
