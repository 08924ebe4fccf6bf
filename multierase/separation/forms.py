"""One form of sentences, filled with a base's own vocabulary, as Gram matrices."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from multierase.files import digest_bytes
from multierase.models.model import Model
from multierase.prompts.kind import Kind
from multierase.separation.cache import ROWS, encoder_key, read_grams, write_grams
from multierase.separation.directions import covariance, gram
from multierase.separation.vocabulary import CAPTIONS, sentences_in, words_of

CACHE = ".dictionary"
BATCH = 256  # sentences between two looks at whether a form's Gram matrix has settled
MOST = 4096  # sentences of a form, settled or not
SETTLED = 0.1  # how much farther out an unlisted sentence may lie than a listed one
RIDGE = 1e-3  # of the mean variance, as in the separation
GRAM, NAMED = "gram", "named"  # their names in a file

ByStream = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Form:
    """A sentence form of a kind, filled with a base's own vocabulary.

    Args:
        grams: by stream the Gram matrix ``(d, d)`` float64 of all sentences.
        named: the same of those that name something of the kind, ``Listed.named``.
        means: by stream each one's mean token, ``(n, d)``, in the order of their being drawn.
    """

    grams: Mapping[str, torch.Tensor]
    named: Mapping[str, torch.Tensor]
    means: Mapping[str, torch.Tensor]

    @property
    def count(self) -> int:
        """The number of its sentences."""
        return len(next(iter(self.means.values()), ()))


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


def form_of(model: Model, kind: Kind, template: str, folder: str | Path | None) -> Form:
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
    means, grams, named = (_called(name, stored) for name in (ROWS, GRAM, NAMED))
    counts = {len(rows) for rows in means.values()}
    whole = grams.keys() == means.keys() == named.keys()
    if whole and len(counts) == 1 and 0 < max(counts) < MOST + BATCH:
        return Form(grams, named, means)

    made = _filled(model, kind, template)
    parts = {GRAM: made.grams, NAMED: made.named, ROWS: made.means}
    write_grams(path, key, {(s, name): of[s] for name, of in parts.items() for s in of})
    return made


def _called(name: str, stored: Mapping[tuple[str, str], torch.Tensor]) -> ByStream:
    return {stream: matrix for (stream, own), matrix in stored.items() if own == name}


def _filled(model: Model, kind: Kind, template: str) -> Form:
    sentences, count = sentences_in(model, kind, template), 0
    totals: ByStream = {}
    named: ByStream = {}
    means: dict[str, list[torch.Tensor]] = {stream: [] for stream in model.streams}
    while count < MOST:
        batch = list(itertools.islice(sentences, BATCH))
        if not batch:
            break

        news, naming = [], torch.tensor([each.named for each in batch])
        for stream, tokens in model.fresh_tokens([each.prompt for each in batch]).items():
            rows = tokens.unflatten(0, (len(batch), -1))
            means[stream].append(rows.mean(1).cpu())
            drawn = gram(tokens)
            if count:
                news.append(novelty(totals[stream], drawn))
            totals[stream] = totals.get(stream, 0) + drawn
            named[stream] = named.get(stream, 0) + gram(rows[naming.to(rows.device)].flatten(0, 1))
        count += len(batch)
        if news and max(news) <= SETTLED:
            break

    return Form(totals, named, {stream: torch.cat(rows) for stream, rows in means.items() if rows})
