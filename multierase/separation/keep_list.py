"""Prompts that should change as little as can be, as Gram matrices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from multierase.models.model import Model
from multierase.prompts.lists import TaggedPrompt
from multierase.separation.cache import encoder_key, read_grams, write_grams
from multierase.separation.dictionary import Dictionary
from multierase.separation.directions import gram

CACHE = ".keep"

Tags = frozenset[str]
Grams = Mapping[str, Mapping[Tags, torch.Tensor]]


@dataclass(frozen=True)
class KeepList:
    """Prompts to keep: their Gram matrices are all that a solve needs of them.

    Args:
        grams: by stream, by the concepts (of a library) that prompts are about, in lower case,
            ``(d, d)`` float64. The empty prompt is about none.
        prompts: how many there are beside the empty one.
        dictionaries: more that is kept, each a list of its own.
    """

    grams: Grams
    prompts: int
    dictionaries: tuple[Dictionary, ...] = ()

    @classmethod
    def of(cls, model: Model, prompts: Iterable[TaggedPrompt], concepts: Iterable[str]) -> KeepList:
        """Make one of tagged prompts and the empty prompt.

        Args:
            concepts: those that may ever be erased.
        """
        known = {concept.lower() for concept in concepts}
        groups: dict[Tags, list[str]] = {frozenset(): [""]}
        prompts = list(prompts)
        for tagged in prompts:
            groups.setdefault(tagged.concepts & known, []).append(tagged.prompt)

        grams = {}
        for stream in model.streams:
            grams[stream] = {
                tags: gram(model.tokens(listed, stream)) for tags, listed in groups.items()
            }
        return cls(grams, len(prompts))

    @classmethod
    def cached(
        cls,
        folder: str | Path,
        model: Model,
        prompts: Sequence[TaggedPrompt],
        concepts: Iterable[str],
    ) -> KeepList:
        """Do as ``of``, and keep the last one in ``folder``: a long list takes minutes to encode.

        A cache that is damaged, or belongs to other prompts, concepts or text encoders, is made
        again. A read-only folder works too: the list is then made each time.
        """
        concepts = sorted(concepts)
        path, key = Path(folder) / CACHE, _key(model, prompts, concepts)
        stored = read_grams(path, key, model)
        if stored is not None:
            return cls(_by_stream(stored), len(prompts))

        keep = cls.of(model, prompts, concepts)
        write_grams(path, key, _flat(keep.grams))
        return keep

    def beside(self, dictionaries: Iterable[Dictionary]) -> KeepList:
        """Return this list with dictionaries beside it."""
        return replace(self, dictionaries=tuple(dictionaries))

    def for_many_sets(self) -> KeepList:
        """Return this list with dictionaries that keep what many sets ask for again and again.

        The last bits of a solve are not those of one set alone; see ``Dictionary``.
        """
        return self.beside(
            replace(dictionary, keeps=True, _grams={}, _tokens={})
            for dictionary in self.dictionaries
        )

    def lists(self, stream: str, erased: Iterable[str]) -> list[torch.Tensor]:
        """Return ``(d, d)`` of each list that is kept, without what is about the erased."""
        erased = list(erased)
        found = [dictionary.gram(stream, erased) for dictionary in self.dictionaries]
        for dictionary in self.dictionaries:
            near = dictionary.about_siblings(stream, erased)
            if near is not None:
                found.append(near)
        # The empty prompt alone is no list beside a dictionary.
        if not found or self.prompts:
            found.append(self.gram(stream, erased))

        return found

    def most_moved(
        self, stream: str, erased: Iterable[str], movement: torch.Tensor
    ) -> torch.Tensor | None:
        """Return ``(d, d)`` of a dictionary's sentences that ``movement`` moves most, if any.

        Args:
            movement: ``ΔWᵀ ΔW`` ``(d, d)`` float64, summed over what reads the stream.
        """
        erased = list(erased)
        found = [
            dictionary.most_moved(stream, erased, movement) for dictionary in self.dictionaries
        ]

        return sum(found[1:], found[0]) if found else None

    def gram(self, stream: str, erased: Iterable[str]) -> torch.Tensor:
        """Return ``(d, d)`` of all prompts that are about none of the erased concepts.

        They are summed in the order of names, so that a list that was read gives the same bits as
        one that was just made.
        """
        names = {concept.lower() for concept in erased}
        grams = self.grams[stream]
        kept = [grams[tags] for tags in sorted(grams, key=sorted) if not tags & names]

        return sum(kept[1:], kept[0])


def _key(model: Model, prompts: Sequence[TaggedPrompt], concepts: Sequence[str]) -> str:
    """Return a digest of everything that a keep-list is made from."""
    listed = [[tagged.prompt, *sorted(tagged.concepts)] for tagged in prompts]

    return encoder_key(model, json.dumps([listed, list(concepts)]).encode())


def _flat(grams: Grams) -> dict[tuple[str, str], torch.Tensor]:
    return {
        (stream, json.dumps(sorted(tags))): matrix
        for stream, by_tags in grams.items()
        for tags, matrix in by_tags.items()
    }


def _by_stream(stored: Mapping[tuple[str, str], torch.Tensor]) -> Grams:
    grams: dict[str, dict[Tags, torch.Tensor]] = {}
    for (stream, tags), matrix in stored.items():
        grams.setdefault(stream, {})[frozenset(json.loads(tags))] = matrix

    return grams
