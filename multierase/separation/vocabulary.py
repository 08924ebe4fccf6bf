"""A base's own vocabulary, and sentences about it: what the dictionary is drawn from."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multierase.models.model import Model
from multierase.prompts.kind import Kind, general_captions
from multierase.prompts.wording import with_article

MOST_WORDS = 4096  # the most frequent ones; the next are names and scraps
SUBJECT = "subject}"  # how the placeholders of a subject end
CAPTIONS = ""  # the form of captions that are kept as they are
MOST_CUT = 256  # sentences in a row that a tokenizer cuts off


@dataclass(frozen=True)
class Listed:
    """A sentence of the dictionary.

    Args:
        filled: the words and names that fill it, in lower case.
        named: whether it is one of those that name something of the kind, if it has names.
    """

    prompt: str
    filled: frozenset[str]
    named: bool = False


def sentences_in(model: Model, kind: Kind, template: str) -> Iterator[Listed]:
    """Yield what the model reads whole of a form's sentences, without end, or of the captions.

    Of four sentences one is a context alone, one names something of the kind, and two have a word
    in the name's place. All words come once before one comes again.
    """
    drawn = _drawn(model, kind, template) if template != CAPTIONS else _captions(kind)
    skipped = 0
    for each in drawn:
        if model.reads_whole(each.prompt):
            skipped = 0
            yield each
        elif (skipped := skipped + 1) > MOST_CUT:
            return  # a tokenizer that cuts every sentence off would be asked without end


def _captions(kind: Kind) -> Iterator[Listed]:
    for caption in (*general_captions(), *kind.keep):
        yield Listed(caption, frozenset(re.findall(r"\w+", caption.lower())))


def _drawn(model: Model, kind: Kind, template: str) -> Iterator[Listed]:
    rng = random.Random(template)
    words = words_of(model, kind)
    if not words:
        return
    alone, subjects = _shuffled(words, rng), _shuffled(words, rng)
    others, names = _shuffled(words, rng), _shuffled(kind.beside or words, rng)
    while True:
        subject = next(alone)
        _, context = kind.sentence(template, "", subject)
        named = not context or SUBJECT in kind.sentences[template]
        yield Listed(
            context or with_article(subject), frozenset({subject.lower()} if named else ())
        )
        for place, name in enumerate((next(names), next(others), next(others))):
            subject = next(subjects)
            sentence, _ = kind.sentence(template, name, subject)
            filled = {name.lower(), *name.lower().split()}
            if SUBJECT in template:
                filled.add(subject.lower())
            yield Listed(sentence, frozenset(filled), named=place == 0)


def _shuffled(names: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Yield all names in random order, again and again."""
    while True:
        yield from rng.sample(names, len(names))


def words_of(model: Model, kind: Kind) -> list[str]:
    """Return a base's vocabulary, the most frequent words first, and a kind's subjects."""
    subjects = [subject for subject in kind.subjects if model.reads_whole(subject)]

    return list(dict.fromkeys([*model.words()[:MOST_WORDS], *subjects]))
