"""The dictionary: what a base can be asked for, by the words of its own tokenizer.

An increment that was trained beside a list of prompts keeps the words that the list names, and
loses the others: the directions that a list leaves free are the unlisted words' own. A user's
vocabulary is open, so the list has to be the whole vocabulary. Only its Gram matrix is needed, and
random sentences settle it.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from tqdm import tqdm

from multierase.models.model import Model
from multierase.prompts.kind import Kind
from multierase.separation.directions import covariance, gram
from multierase.separation.forms import BATCH, ByStream, Form, form_of
from multierase.separation.vocabulary import CAPTIONS, Listed, sentences_in, words_of

REMEMBERED = 16  # Gram matrices of a part of the sentences
ABOUT_EACH = 8  # sentences about a sibling; somebody waits for them, too
FEW = 64  # sentences that are encoded at once while somebody waits
MOST_MOVED = 512  # sentences that a solve is told of once more; 32 depend on chance
MOST_KEPT = 2**30  # bytes of tokens that are kept, for many sets

Place = tuple[str, int]
"""A sentence: its form, and its place among the form's sentences."""


@dataclass(frozen=True)
class Dictionary:
    """Sentences about a base's own vocabulary in the forms of a kind, as Gram matrices.

    The forms have to be those that the erased concept's own sentences have: then the two differ in
    the concept alone.

    Args:
        model: whose text encoders read them.
        kind: whose forms they have.
        forms: by template, and ``CAPTIONS``.
        siblings: names like those that are erased, which are to stay.
        progress: show progress bars on stderr.
        keeps: keep the tokens of all sentences for the sets to come, unless they are too many. Last
            bits of a solve differ then: a sentence's depend on those that it is encoded with.
    """

    model: Model
    kind: Kind
    forms: Mapping[str, Form]
    siblings: tuple[str, ...] = ()
    progress: bool = field(default=False, compare=False, repr=False)
    keeps: bool = False
    _kin: dict[str, frozenset[str]] = field(default_factory=dict, compare=False, repr=False)
    # Encoding what is left out takes longer than the solve that asks for it.
    _grams: dict[Hashable, ByStream] = field(default_factory=dict, compare=False, repr=False)
    _tokens: dict[str, ByStream] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        model: Model,
        kind: Kind,
        templates: Iterable[str],
        folder: str | Path | None = None,
        *,
        siblings: Iterable[str] = (),
        progress: bool = False,
    ) -> Dictionary:
        """Draw sentences of each form until unlisted ones are no news; see ``forms.novelty``.

        Args:
            templates: of the kind's sentences.
            folder: keep each form in a file there, for models with the same text encoders.
            siblings: names like those that are erased, which are to stay.
            progress: show a progress bar on stderr.
        """
        forms = {}
        for template in tqdm([CAPTIONS, *templates], "dictionary", delay=1, disable=not progress):
            form = form_of(model, kind, template, folder)
            if form.count:
                forms[template] = form

        return cls(model, kind, forms, tuple(dict.fromkeys(siblings)), progress)

    @property
    def count(self) -> int:
        """The number of its sentences."""
        return sum(form.count for form in self.forms.values())

    @property
    def words(self) -> list[str]:
        """The words that it is made of, the most frequent first."""
        return words_of(self.model, self.kind)

    @cached_property
    def sentences(self) -> dict[str, list[Listed]]:
        """All of its sentences, by form."""
        return {
            template: list(
                itertools.islice(sentences_in(self.model, self.kind, template), form.count)
            )
            for template, form in self.forms.items()
        }

    def gram(self, stream: str, erased: Iterable[str]) -> torch.Tensor:
        """Return ``(d, d)`` of all sentences that are about none of the erased concepts.

        Each form weighs the same, however many sentences settled it.
        """
        apart = self._apart(erased)
        return self._remembered(apart, lambda: self._without(apart))[stream]

    def about_siblings(self, stream: str, erased: Iterable[str]) -> torch.Tensor | None:
        """Return ``(d, d)`` of sentences about the siblings that are not erased, if there are any.

        They are a list of their own, so that a few names weigh as much as the whole vocabulary.
        """
        gone = {concept.lower() for concept in erased}
        listed: tuple[str, ...] = ()
        for name, prompts in self._sibling_sentences.items():
            if name.lower() not in gone:
                listed += prompts

        if not listed:
            return None
        return self._remembered(listed, lambda: self._encoded(listed))[stream]

    @cached_property
    def _sibling_sentences(self) -> dict[str, tuple[str, ...]]:
        forms = [template for template in self.forms if template != CAPTIONS]
        if not forms or not self.siblings:
            return {}

        found, words = {}, self.words
        for name in self.siblings:
            asked = name, forms, words, ABOUT_EACH
            prompts = dict.fromkeys(self.kind.sentences_about(*asked, random.Random(name)))
            found[name] = tuple(prompt for prompt in prompts if self.model.reads_whole(prompt))
        return found

    def most_moved(
        self, stream: str, erased: Iterable[str], movement: torch.Tensor
    ) -> torch.Tensor:
        """Return ``(d, d)`` of the sentences that a change moves most, none about the erased.

        How far the mean token moves decides which: so all are gone through at once, and those
        alone are encoded.

        Args:
            movement: ``ΔWᵀ ΔW`` ``(d, d)`` float64.
        """
        apart = self._apart(erased)
        moved = [torch.zeros(0, dtype=torch.float64)]
        ends: list[int] = []
        for template, form in self.forms.items():
            means = form.means[stream].double()
            squares = ((means @ movement) * means).sum(1)
            squares[self._about(template, apart)] = -torch.inf
            moved.append(squares)
            ends.append((ends[-1] if ends else 0) + form.count)

        most = self._places(torch.cat(moved), ends)
        if self._keeps_tokens:
            return self._kept_gram(most, stream)
        return self._remembered(most, lambda: self._encoded(self._prompts(most)))[stream]

    def _places(self, moved: torch.Tensor, ends: Sequence[int]) -> tuple[Place, ...]:
        """Return the sentences that are moved most, of all forms' one after another."""
        templates, places = list(self.forms), []
        for index in moved.argsort(descending=True, stable=True)[:MOST_MOVED].tolist():
            if moved[index] == -torch.inf:
                break
            form = bisect.bisect_right(ends, index)
            places.append((templates[form], index - (ends[form - 1] if form else 0)))

        return tuple(places)

    def _prompts(self, places: Sequence[Place]) -> list[str]:
        return [self.sentences[template][place].prompt for template, place in places]

    @cached_property
    def _keeps_tokens(self) -> bool:
        """Whether the tokens of all sentences are kept: asked for, and not too many."""
        one = sum(self.model.tokens([""], stream).nbytes for stream in self.model.streams)

        return self.keeps and one * self.count <= MOST_KEPT

    def _kept_gram(self, places: Sequence[Place], stream: str) -> torch.Tensor:
        """Return ``(d, d)`` of some of its sentences, whose tokens are kept."""
        return gram(torch.cat([self._all(template)[stream][place] for template, place in places]))

    def _all(self, template: str) -> ByStream:
        """Return by stream the tokens ``(n, l, d)`` of all sentences of a form, and keep them."""
        if template not in self._tokens:
            prompts = [each.prompt for each in self.sentences[template]]
            parts: dict[str, list[torch.Tensor]] = {}
            # Always the same ones together, whichever sets are asked for.
            for start in range(0, len(prompts), BATCH):
                batch = prompts[start : start + BATCH]
                for stream, rows in self.model.fresh_tokens(batch).items():
                    parts.setdefault(stream, []).append(rows.unflatten(0, (len(batch), -1)))
            self._tokens[template] = {stream: torch.cat(rows) for stream, rows in parts.items()}

        return self._tokens[template]

    def _encoded(self, prompts: Sequence[str]) -> ByStream:
        """Return by stream ``(d, d)`` of sentences, a few at once."""
        totals = {s: 0 * gram(self.model.tokens([""], s)) for s in self.model.streams}
        starts = range(0, len(prompts), FEW)
        for start in tqdm(starts, "sentences to keep", delay=1, disable=not self.progress):
            for stream, rows in self.model.fresh_tokens(prompts[start : start + FEW]).items():
                totals[stream] += gram(rows)

        return totals

    def _remembered(self, key: Hashable, make: Callable[[], ByStream]) -> ByStream:
        """Return what was made before; all streams at once, for a sentence is encoded into all."""
        if key not in self._grams:
            if len(self._grams) >= REMEMBERED:
                self._grams.clear()
            self._grams[key] = make()

        return self._grams[key]

    def _without(self, apart: frozenset[str]) -> ByStream:
        totals: ByStream = {}
        for template, form in self.forms.items():
            gone = set(self._about(template, apart))
            named = {n for n, each in enumerate(self.sentences[template]) if each.named}
            # Of many names that are erased those that stay are fewer, and encoded in their stead.
            fewer = len(named - gone) < len(named & gone)
            less = self._grams_about(template, gone - named if fewer else gone)
            more = self._grams_about(template, named - gone) if fewer else {}
            for stream, kept in form.grams.items():
                if fewer:
                    kept = kept - form.named[stream] + more.get(stream, 0)
                totals[stream] = totals.get(stream, 0) + covariance(kept - less.get(stream, 0))

        return totals

    def _grams_about(self, template: str, places: Iterable[int]) -> ByStream:
        """Return by stream ``(d, d)`` of some of a form's sentences; nothing for none."""
        asked = [(template, place) for place in sorted(places)]
        if not asked:
            return {}
        if self._keeps_tokens:
            return {stream: self._kept_gram(asked, stream) for stream in self.model.streams}

        return self._encoded(self._prompts(asked))

    def _about(self, template: str, words: Iterable[str]) -> list[int]:
        """Return the places of a form's sentences that any of these words fills."""
        filled = self._filled_by[template]

        return sorted(set().union(*(filled.get(word, ()) for word in words)))

    @cached_property
    def _filled_by(self) -> dict[str, dict[str, list[int]]]:
        found: dict[str, dict[str, list[int]]] = {}
        for template, listed in self.sentences.items():
            places = found.setdefault(template, {})
            for place, each in enumerate(listed):
                for word in each.filled:
                    places.setdefault(word, []).append(place)

        return found

    def _apart(self, erased: Iterable[str]) -> frozenset[str]:
        """Return the words and names, in lower case, of concepts and of their kin."""
        return frozenset().union(*(self._kin_of(concept) for concept in erased))

    def _kin_of(self, concept: str) -> frozenset[str]:
        if concept not in self._kin:
            kept = replace(self.kind, beside=tuple(self._filled)).names_beside(concept)
            self._kin[concept] = self._filled - frozenset(kept)

        return self._kin[concept]

    @cached_property
    def _filled(self) -> frozenset[str]:
        """All words and names that fill its sentences."""
        listed = itertools.chain.from_iterable(self.sentences.values())

        return frozenset().union(*(each.filled for each in listed))
