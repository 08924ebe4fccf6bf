"""The increments that fit a model, and how a set of them is put together."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from functools import partial

import torch

from multierase.errors import IncrementFileError, UnknownConcept, suggest
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.format import fingerprints, require_fits
from multierase.increments.value import Increment, gram_factor
from multierase.models.weights import Weights, require_free
from multierase.prompts.concepts import Concept
from multierase.prompts.wording import plain
from multierase.separation.changes import Changes, Transfers
from multierase.separation.crosstalk import deviations_of
from multierase.separation.directions import compact, concept_tokens, gram
from multierase.separation.keep_list import KeepList
from multierase.separation.solves import JointSolve, Transfer

ROUNDS = 2  # of weighing the erased concepts anew
LEAST = 0.1  # weight of one

logger = logging.getLogger(__name__)

Grams = Mapping[str, torch.Tensor]  # by stream


class Fitting:
    """The increments of a mapping that were made for a model, each checked once.

    Args:
        owner: the composer that may hold the model.
        weights: the model's.
        increments: from concept name to increment.
    """

    def __init__(self, owner: object, weights: Weights, increments: Mapping[str, Increment]):
        self._weights, self._increments = weights, increments
        self._owner = weakref.ref(owner)  # so that a composer is gone as soon as nobody uses it
        self._checked: dict[str, Increment] = {}
        self._kept: dict[str, Grams] = {}
        self._base: dict[str, torch.Tensor] = {}  # parameters that were looked at
        self._fingerprints: dict[str, Fingerprint] = {}  # they take longer than composing
        self._all: dict[str, tuple[tuple[str, ...], torch.Tensor]] = {}
        self._contexts: dict[str, tuple[str, ...]] = {}  # by concept, plainly written
        self._apart: dict[tuple[str, ...], Grams] = {}  # by concept and its sentences

    def increment(self, name: str) -> Increment:
        """Return an increment that fits the model.

        Raises:
            UnknownConcept: if there is none of this name.
            IncrementFileError: if it belongs to another base.
        """
        if name not in self._checked:
            increment = self.found(name)
            self._require_fits(increment)
            self._checked[name] = increment

        return self._checked[name]

    def found(self, name: str) -> Increment:
        """Return an increment, whether it fits or not. Raises ``UnknownConcept``."""
        if name in self._checked:
            return self._checked[name]
        if name not in self._increments:
            here = sorted(self._increments)
            raise UnknownConcept(
                f"no increment for {name!r}{suggest(name, here)}; there are {here}"
            )

        return self._increments[name]

    def transfers(
        self,
        active: Mapping[str, Increment],
        names: tuple[str, ...],
        keep: KeepList | None,
        *,
        keep_weight: float,
        ridge: float,
    ) -> dict[str, dict[str, Transfer]]:
        """Solve jointly for the ``T_i`` of the erased concepts, by concept and stream.

        Args:
            active: the erased concepts.
            names: of all increments, sorted; those that are not erased are kept.
            keep: what is kept beside them.
        """
        transfers: dict[str, dict[str, Transfer]] = {name: {} for name in active}
        # A set that was imported whole erases more than its name says.
        erased = [*active, *(name for one in active.values() for name in one.also)]
        named = {name.lower(): f" {plain(name)} " for name in erased}
        for stream in self._weights.model.streams:
            reading = {n: i for n, i in active.items() if stream in i.readers.values()}
            if not reading:
                continue

            factors = {
                name: self._beside(increment, grams_of(increment), named)[stream]
                for name, increment in reading.items()
            }
            lists = self._others(active, names, stream, named)
            if keep is not None:
                lists += keep.lists(stream, erased)
            solve = JointSolve(factors, lists, keep_weight=keep_weight, ridge=ridge)
            solved = solve.transfers()
            if keep is not None and keep.dictionaries:
                # Least squares give up a few sentences for the many; they are told of once more.
                changes = Changes(reading, dict.fromkeys(reading, 1.0), {})
                moved = changes.through(_of_stream(solved, stream)).movement(stream)
                worst = keep.most_moved(stream, erased, moved)
                solved = _evenly(partial(solve.transfers, worst=worst), changes, stream)
            for name, transfer in solved.items():
                transfers[name][stream] = transfer

        return transfers

    def _others(
        self,
        active: Mapping[str, Increment],
        names: tuple[str, ...],
        stream: str,
        named: Mapping[str, str],
    ) -> list[torch.Tensor]:
        """Return the Gram matrix of all concepts that are not erased, if there are any.

        A library may hold many more concepts than are erased. The cheaper way is taken: sum the
        others, or subtract the erased from the library's total, which is kept. The two sets alone
        decide which, so that the bits depend on nothing else.
        """
        factors: dict[str, torch.Tensor] = {}
        for name in names:
            grams = active[name].grams if name in active else self._kept_grams(name)
            if stream in grams:
                factors[name] = grams[stream]

        kept = {
            name: self._beside(self.increment(name), self._kept_grams(name), named)[stream]
            for name in factors
            if name not in active
        }
        gone = [active[name].grams[stream] for name in active if stream in active[name].grams]
        if not kept:
            return []
        if len(kept) <= len(gone):
            return [gram(torch.cat(list(kept.values()), dim=1).T)]

        known = self._all.get(stream)
        if known is None or known[0] != names:
            every = gram(torch.cat(list(factors.values()), dim=1).T)
            known = self._all[stream] = names, every
        # Of those that stay, what names an erased concept goes with it.
        fewer = [name for name, factor in kept.items() if factor is not factors[name]]
        rest = known[1] - gram(torch.cat([*gone, *(factors[name] for name in fewer)], dim=1).T)
        if fewer:
            rest = rest + gram(torch.cat([kept[name] for name in fewer], dim=1).T)
        return [rest]

    def _beside(self, increment: Increment, grams: Grams, named: Mapping[str, str]) -> Grams:
        """Return a concept's Gram factors without its sentences that name another erased concept.

        A base's list may say "a dog by Noto" of the dog and of Noto. While Noto is erased, the
        sentence says nothing of what is to become of the dog, erased or not. If all sentences of a
        concept name another, all of them count.

        Args:
            named: by erased concept, in lower case, how a sentence names it.
        """
        said, own = increment.provenance, increment.concept
        if own not in self._contexts:
            self._contexts[own] = tuple(f" {plain(context)} " for context in said.contexts)
        contexts = self._contexts[own]
        erases = {name.lower() for name in (own, *increment.also)}
        words = [word for name, word in named.items() if name not in erases]
        about = {context for context in set(contexts) if any(word in context for word in words)}
        places = [place for place, context in enumerate(contexts) if context not in about]
        if not about or not places:
            return grams

        prompts = tuple(said.prompts[place] for place in places)
        key = own, *prompts
        if key not in self._apart:
            model = self._weights.model
            rest = Concept(own, prompts, tuple(said.contexts[place] for place in places))
            self._apart[key] = {
                stream: gram_factor(compact(concept_tokens(model, rest, stream)))
                for stream in grams
            }
        return self._apart[key]

    def _kept_grams(self, name: str) -> Grams:
        """Return the Gram factors of a concept that is not erased.

        An increment that could not be applied to this model, or whose concept cannot be told apart,
        keeps nothing.
        """
        if name not in self._kept:
            try:
                self._kept[name] = grams_of(self.increment(name))
            except (ValueError, KeyError, FileNotFoundError) as error:
                logger.warning(
                    "the joint solve does not protect %r, whose increment cannot be used: %s",
                    name,
                    error,
                )
                self._kept[name] = {}

        return self._kept[name]

    def _require_fits(self, increment: Increment) -> None:
        model = self._weights.model
        require_free(model, self._owner())
        names = {name for name in increment.shapes if name in self._weights}
        new = {name: self._weights.pristine(name) for name in names - self._base.keys()}
        self._weights.watch(sorted(new))
        self._fingerprints |= fingerprints(new, new)
        self._base |= new

        require_fits(increment, self._base, self._fingerprints, family=model.family)


def _evenly(
    solve: Callable[..., dict[str, Transfer]], changes: Changes, stream: str
) -> dict[str, Transfer]:
    """Solve so that no erased concept is given up for the others.

    Least squares leave one concept with little of its increment's effect if that serves the sum.
    Whoever is further from the own effect than the mean gets so much more weight, and all is
    solved again.
    """
    weights = dict.fromkeys(changes.active, 1.0)
    solved = solve(weights=weights)
    for _ in range(ROUNDS if len(weights) > 1 else 0):
        deviations = deviations_of(changes.through(_of_stream(solved, stream)), stream)
        total = sum(deviations.values())
        if not total:
            break
        for name, deviation in deviations.items():
            weights[name] *= len(deviations) * deviation / total
        mean = sum(weights.values()) / len(weights)
        weights = {name: max(weight / mean, LEAST) for name, weight in weights.items()}
        solved = solve(weights=weights)

    return solved


def _of_stream(solved: Mapping[str, Transfer], stream: str) -> Transfers:
    return {name: {stream: transfer} for name, transfer in solved.items()}


def grams_of(increment: Increment) -> Grams:
    """Return an increment's Gram factors.

    Raises:
        IncrementFileError: if it holds none, so that its concept cannot be told apart.
    """
    missing = set(increment.readers.values()) - increment.grams.keys()
    if missing or not increment.grams:
        raise IncrementFileError(
            f"increment {increment.concept!r} has no Gram matrix of its concept's tokens, "
            "which the joint solve needs: erase it again, or compose with "
            "solve='sum'"
        )

    return increment.grams
