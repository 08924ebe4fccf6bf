"""The dictionary: what a base can be asked for, by the words of its own tokenizer.

An increment that was trained beside a list of prompts keeps the words that the list names, and
loses the others: the directions that a list leaves free are the unlisted words' own. A user's
vocabulary is open, so the list has to be the whole vocabulary. Only its Gram matrix is needed, and
random sentences settle it.
"""

from __future__ import annotations

import bisect
import itertools
import json
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from tqdm import tqdm

from multierase.files import digest_bytes
from multierase.models.model import Model
from multierase.prompts.kind import Kind
from multierase.separation.cache import ROWS, encoder_key, read_grams, write_grams
from multierase.separation.directions import covariance, gram
from multierase.separation.vocabulary import CAPTIONS, Listed, sentences_in, words_of

CACHE = ".dictionary"
BATCH = 256  # sentences between two looks at whether a form's Gram matrix has settled
MOST = 4096  # sentences of a form, settled or not
SETTLED = 0.1  # how much farther out an unlisted sentence may lie than a listed one
RIDGE = 1e-3  # of the mean variance, as in the separation
REMEMBERED = 16  # Gram matrices of a part of the sentences
ABOUT_EACH = 8  # sentences about a sibling; somebody waits for them, too
FEW = 64  # sentences that are encoded at once while somebody waits
MOST_MOVED = 512  # sentences that a solve is told of once more; 32 depend on chance
MOST_KEPT = 2**30  # bytes of tokens that are kept, for many sets
GRAM = "gram"  # its name in a file


Place = tuple[str, int]
"""A sentence: its form, and its place among the form's sentences."""
ByStream = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Form:
    """A sentence form of a kind, filled with a base's own vocabulary.

    Args:
        grams: by stream the Gram matrix ``(d, d)`` float64 of all sentences.
        means: by stream each one's mean token, ``(n, d)``, in the order of their being drawn.
    """

    grams: Mapping[str, torch.Tensor]
    means: Mapping[str, torch.Tensor]

    @property
    def count(self) -> int:
        """The number of its sentences."""
        return len(next(iter(self.means.values()), ()))


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
        """Draw sentences of each form until unlisted ones are no news; see ``novelty``.

        Args:
            templates: of the kind's sentences.
            folder: keep each form in a file there, for models with the same text encoders.
            siblings: names like those that are erased, which are to stay.
            progress: show a progress bar on stderr.
        """
        forms = {}
        for template in tqdm([CAPTIONS, *templates], "dictionary", delay=1, disable=not progress):
            form = _form(model, kind, template, folder)
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
            # They are few: the concept's own words, and what is like it.
            gone = [(template, place) for place in self._about(template, apart)]
            near = self._grams_about(gone) if gone else {}
            for stream, every in form.grams.items():
                kept = every - near[stream] if near else every
                totals[stream] = totals.get(stream, 0) + covariance(kept)

        return totals

    def _grams_about(self, places: Sequence[Place]) -> ByStream:
        if self._keeps_tokens:
            return {stream: self._kept_gram(places, stream) for stream in self.model.streams}
        encoded = self.model.fresh_tokens(self._prompts(places))
        return {stream: gram(rows) for stream, rows in encoded.items()}

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
            listed = itertools.chain.from_iterable(self.sentences.values())
            filled = frozenset().union(*(each.filled for each in listed))
            kept = replace(self.kind, beside=tuple(filled)).names_beside(concept)
            self._kin[concept] = filled - frozenset(kept)

        return self._kin[concept]


def novelty(listed: torch.Tensor, drawn: torch.Tensor) -> float:
    """Return how much farther out new sentences lie than those of a list, in its own metric.

    With ``C`` the covariance of the listed tokens, a token's distance is ``eᵀ (C + ridge)⁻¹ e``.
    Returned is the new tokens' mean over the listed ones', less one. 0: they are no news; a list
    that leaves words out has its free directions along exactly these.

    Args:
        listed, drawn: Gram matrices ``(d, d)``.
    """
    metric = covariance(listed) + RIDGE * torch.eye(len(listed), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(metric))
    far, near = (covariance(matrix) * inverse for matrix in (drawn, listed))

    return (far.sum() / near.sum() - 1).item()


# Text encoders stay as they are, so a form that was filled once holds as long as its model does.
_filled_before: WeakKeyDictionary[Model, dict[tuple, Form]] = WeakKeyDictionary()


def _form(model: Model, kind: Kind, template: str, folder: str | Path | None) -> Form:
    """Return a form that was filled before, in this process or a file; else fill it and keep it."""
    before, asked = _filled_before.setdefault(model, {}), _drawn_from(model, kind, template)
    if asked not in before:
        before[asked] = _from_file(model, kind, template, folder)

    return before[asked]


def _drawn_from(model: Model, kind: Kind, template: str) -> tuple[object, ...]:
    """Return all that decides a form's sentences, for this model's tokenizer."""
    if template == CAPTIONS:
        return CAPTIONS, kind.keep

    return template, kind.sentences[template], tuple(words_of(model, kind)), kind.beside


def _from_file(model: Model, kind: Kind, template: str, folder: str | Path | None) -> Form:
    if folder is None:
        return _filled(model, kind, template)

    # Some sentences too: they tell of the tokenizer, and of the words between.
    first = [each.prompt for each in itertools.islice(sentences_in(model, kind, template), BATCH)]
    asked = [_drawn_from(model, kind, template), first, BATCH, MOST, SETTLED]
    key = encoder_key(model, json.dumps(asked).encode())
    path = Path(folder) / f"{CACHE}-{kind.name}-{digest_bytes(template, length=8)}"
    stored = read_grams(path, key, model) or {}
    means = {stream: rows for (stream, name), rows in stored.items() if name == ROWS}
    grams = {stream: matrix for (stream, name), matrix in stored.items() if name == GRAM}
    counts = {len(rows) for rows in means.values()}
    if len(counts) == 1 and grams.keys() == means.keys() and 0 < max(counts) < MOST + BATCH:
        return Form(grams, means)

    made = _filled(model, kind, template)
    named = {GRAM: made.grams, ROWS: made.means}
    write_grams(path, key, {(s, name): of[s] for name, of in named.items() for s in of})
    return made


def _filled(model: Model, kind: Kind, template: str) -> Form:
    sentences, count = sentences_in(model, kind, template), 0
    totals: dict[str, torch.Tensor] = {}
    means: dict[str, list[torch.Tensor]] = {stream: [] for stream in model.streams}
    while count < MOST:
        prompts = [each.prompt for each in itertools.islice(sentences, BATCH)]
        if not prompts:
            break

        news = []
        for stream, tokens in model.fresh_tokens(prompts).items():
            means[stream].append(tokens.reshape(len(prompts), -1, tokens.shape[1]).mean(1).cpu())
            drawn = gram(tokens)
            if count:
                news.append(novelty(totals[stream], drawn))
            totals[stream] = totals.get(stream, 0) + drawn
        count += len(prompts)
        if news and max(news) <= SETTLED:
            break

    return Form(totals, {stream: torch.cat(rows) for stream, rows in means.items() if rows})
