"""What closed forms have in common: which tokens they are solved from, and what becomes of it.

A closed form edits weights that read one stream of the text alone, so that they say of a concept's
tokens what they say of others. Which tokens these are, what is preserved, what cannot be asked for,
and how the edit becomes an increment is decided here. A method is a function from an ``Edit`` to
what it adds to the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

import multierase
from multierase.errors import ConceptRefused, UsageError
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Cost, Provenance
from multierase.increments.value import Delta, Increment, gram_factor
from multierase.methods import Order, Refusal
from multierase.models.model import Model
from multierase.models.scopes import FAMILIES
from multierase.models.weights import require_free
from multierase.prompts.concepts import Concept
from multierase.prompts.lists import not_about
from multierase.separation.directions import compact, concept_tokens
from multierase.training.closed_form import aligned

Pair = tuple[torch.Tensor, torch.Tensor]
"""Tokens ``(n, d)`` that are edited, and ``(n, d)`` to take their place; float64, on the CPU."""


@dataclass(frozen=True)
class Edit:
    """One concept to edit out of a model.

    Args:
        model: the frozen base.
        concept: with its sentences and contexts.
        kept: the prompts that are preserved.
        seed: of whatever a method draws at random.
    """

    model: Model
    concept: Concept
    kept: tuple[str, ...]
    seed: int = 0

    @property
    def readers(self) -> dict[str, str]:
        """All parameters that read one stream of the text alone, with the stream."""
        return self.model.readers

    @property
    def values(self) -> dict[str, str]:
        """Those of them that make attention's values; all of them where none does so alone.

        The first layer of a transformer that joins text and picture makes keys and values at once.
        """
        readers, values = self.readers, FAMILIES[self.model.family].values

        return {name: readers[name] for name in readers if values in name} or readers

    def weight(self, name: str) -> torch.Tensor:
        """Return the base's own ``W`` ``(out, d)``, float64, on the CPU."""
        return self.model.parameters()[name].detach().cpu().double()

    def tokens(self, stream: str) -> Pair:
        """Return the sentences' tokens from the last word on, and what is to take their place."""
        return pair(self.model, self.concept, stream)

    def words(self, stream: str) -> Pair:
        """Return the last word of each sentence, and what is to take its place."""
        return _pair(self.model, self.concept, stream, slice(1))

    def behind(self, stream: str) -> Pair:
        """Return the tokens behind the last word of each sentence, and what takes their place.

        They are end and padding, in which a text encoder goes on about the sentence. A stream of
        one vector for each prompt has nothing else.
        """
        vectors = len(self.model.spans("", stream)[0].rows) == 1

        return _pair(self.model, self.concept, stream, slice(None) if vectors else slice(1, None))

    def kept_tokens(self, stream: str) -> torch.Tensor:
        """Return the preserved prompts' tokens ``(m, d)`` from the last word on."""
        return self._kept(stream, slice(None))

    def kept_words(self, stream: str) -> torch.Tensor:
        """Return the last word ``(m, d)`` of each preserved prompt."""
        return self._kept(stream, slice(1))

    def empty(self, stream: str) -> torch.Tensor:
        """Return all tokens ``(l, d)`` of the empty prompt."""
        return self.model.tokens([""], stream).cpu().double()

    def plainest(self) -> Edit:
        """Return the edit of those sentences alone whose guides are as short as can be."""
        pairs = list(zip(self.concept.prompts, guides(self.concept), strict=True))
        least = min(len(guide.split()) for _, guide in pairs)
        shortest = [pair for pair in pairs if len(pair[1].split()) == least]
        prompts, contexts = zip(*shortest, strict=True)

        return replace(self, concept=replace(self.concept, prompts=prompts, contexts=contexts))

    def _kept(self, stream: str, rows: slice) -> torch.Tensor:
        found = [self.empty(stream)[:0]]
        for prompt in self.kept:
            found += [own[rows].double() for own, _ in aligned(self.model, prompt, "", stream)]

        return torch.cat(found)


Solve = Callable[[Edit], Mapping[str, torch.Tensor]]
"""Returns by parameter what is added to its weights: ``Δ`` ``(out, d)``, float64.

Raises ``ConceptRefused`` for a concept that it cannot edit.
"""


def produce(
    model: Model,
    order: Order,
    method: str,
    solve: Solve,
    settings: Mapping[str, Any],
    *,
    draws: bool = False,
) -> Iterator[Increment | Refusal]:
    """Edit the model for each concept alone; see ``multierase.methods.Produce``.

    What the base's own list and the order's keep-lists name is preserved.

    Args:
        method: its name in ``METHODS``.
        solve: the closed form.
        settings: its hyper-parameters, for the provenance.
        draws: whether it draws anything at random, so that the seed is noted.

    Raises:
        ModelHeld: if concepts are erased on the model now, so that it is not the base.
        UsageError: for a scope, a way or a concept that a closed form does not have.
        ValueError: for a concept that the tokenizer cannot represent.
    """
    concepts = resolved(model, order, method)
    _require_own_scope(model, order, method)

    known = model.known_prompts if order.settings.known else []
    for concept in concepts:
        began = time.perf_counter()
        listed = not_about([*known, *order.keep], concept.name)
        kept = tuple(dict.fromkeys([*order.settings.keep, *listed]))
        edit = Edit(model, concept, kept, order.settings.seed)
        # All at once: a text tower takes as long for one prompt as for many.
        model.encode([*concept.prompts, *guides(concept), *kept, ""])
        try:
            deltas = solve(edit)
        except ConceptRefused as error:
            yield Refusal(concept.name, str(error))
            continue

        yield increment_of(
            model,
            concept,
            {name: delta.float() for name, delta in deltas.items()},
            method,
            scope=model.exact_scope,
            settings=settings,
            seconds=time.perf_counter() - began,
            seed=edit.seed if draws else None,
        )


def increment_of(
    model: Model,
    concept: Concept,
    deltas: Mapping[str, Delta],
    method: str,
    *,
    scope: str,
    settings: Mapping[str, Any],
    seconds: float,
    evaluations: int = 0,
    seed: int | None = None,
) -> Increment:
    """Make an increment of what a method adds to the base, with its provenance.

    Args:
        deltas: by parameter, float32, on the CPU.

    The other arguments are those of ``Provenance`` and ``Cost``.
    """
    here, readers = model.parameters(), model.readers
    grams = {}
    for stream in model.streams:
        tokens = concept_tokens(model, concept, stream).to(model.device)
        grams[stream] = gram_factor(compact(tokens))

    return Increment(
        deltas=deltas,
        base=Fingerprint.of(model.name, model.family, {name: here[name] for name in deltas}),
        provenance=Provenance(
            concept=concept.name,
            prompts=concept.prompts,
            contexts=concept.contexts,
            anchor=concept.anchor,
            method=method,
            scope=scope,
            settings=settings,
            seed=seed,
            version=multierase.__version__,
            cost=Cost(evaluations, round(seconds, 2), model.peak_memory()),
        ),
        grams=grams,
        readers={name: stream for name, stream in readers.items() if name in deltas},
    )


def resolved(model: Model, order: Order, method: str) -> list[Concept]:
    """Return an order's concepts, those that are given by their names alone with sentences.

    For methods that make each increment by itself.

    Raises:
        ModelHeld: if concepts are erased on the model now, so that it is not the base.
        UsageError: for concepts to train simultaneously, or to erase from others alone.
        ValueError: for a concept that the tokenizer cannot represent.
    """
    require_free(model)
    known = model.known_prompts if order.settings.known else []
    concepts = [concept.with_sentences(known) for concept in order.concepts]
    for concept in concepts:
        for prompt in concept.prompts:
            model.require_representable(prompt)

    if order.simultaneous:
        raise UsageError(
            f"method {method!r} makes each increment by itself: leave --simultaneous out, or take "
            "the method 'esd' or 'sepme'"
        )
    for concept in order.concepts:
        if concept.erase_from:
            raise UsageError(
                f"method {method!r} cannot erase {concept.name!r} from {concept.erase_from!r} "
                "alone: leave erase_from out, or take the method 'esd'"
            )

    return concepts


def pair(model: Model, concept: Concept, stream: str) -> Pair:
    """Return a concept's tokens from the last word on, and what is to take their place.

    That is the context's tokens, or the anchor's, aligned at the last word as in UCE's first code.
    """
    return _pair(model, concept, stream, slice(None))


def guides(concept: Concept) -> tuple[str, ...]:
    """Return the prompt that is to take each sentence's place: its context, or the anchor."""
    return (concept.anchor,) * len(concept.prompts) if concept.anchor else concept.contexts


def _pair(model: Model, concept: Concept, stream: str, rows: slice) -> Pair:
    old, new = [], []
    # A bare name has the empty context: its tokens become those of the empty prompt.
    for prompt, guide in zip(concept.prompts, guides(concept), strict=True):
        for with_it, without in aligned(model, prompt, guide, stream):
            old.append(with_it[rows])
            new.append(without[rows])

    return torch.cat(old).double(), torch.cat(new).double()


def _require_own_scope(model: Model, order: Order, method: str) -> None:
    scope, own = order.settings.scope, model.exact_scope
    if scope not in (None, own):
        raise UsageError(
            f"method {method!r} edits what reads the text alone, the scope {own!r}; given "
            f"{scope!r}: leave the scope out, or take a method that trains"
        )
