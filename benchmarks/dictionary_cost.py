"""What does the dictionary cost at the size of Stable Diffusion 1.4's text tower?

    python benchmarks/dictionary_cost.py --out benchmarks/results/dictionary_cost.json

The weights are random, and so are most of the tokenizer's 49,408 words. For each form of a kind,
and for the captions: how many sentences settle it, and its seconds. They are made once for a
library. Then the seconds of what every new set of erased concepts asks for: the sentences that it
moves most. ``--forms`` says how many forms are filled: an erasure has those that the trial chooses,
three to ten.
"""

from __future__ import annotations

import itertools
import random
import re
import sys
from collections.abc import Iterator

import torch
from harness import Results, parser, timed
from sd14 import WIDTH, text_alone

from multierase.prompts.kind import Kind, general_captions, load_kind
from multierase.separation.dictionary import Dictionary
from multierase.separation.vocabulary import CAPTIONS

VOCABULARY = 49_408  # of CLIP


def words(kind: Kind) -> list[str]:
    """Return the words of a kind and of the captions, then random ones."""
    sentences = (*kind.sentences, *kind.sentences.values(), *general_captions(), *kind.keep)
    texts = [*sentences, *kind.subjects, *kind.beside, "an"]
    known = re.findall(r"[^\W_]+|[^\w\s]", " ".join(texts).lower())

    # Some are made up twice.
    return list(dict.fromkeys([*known, *itertools.islice(made_up(), 2 * VOCABULARY)]))[:VOCABULARY]


def made_up() -> Iterator[str]:
    """Yield random words of two to four syllables, without end."""
    rng = random.Random(0)
    while True:
        syllables = (rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in itertools.count())
        yield "".join(itertools.islice(syllables, rng.randint(2, 4)))


def main() -> None:
    options = parser(__doc__, shards=False, threads=2)
    options.add_argument("--kind", default="artist")
    options.add_argument("--forms", type=int, default=5)
    options.add_argument("--device", default="cpu", help="where the text tower is")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    results, kind = Results(arguments.out), load_kind(arguments.kind)
    model = text_alone(words(kind))
    model.text.tower.to(arguments.device)

    forms = list(kind.sentences)[: 0 if arguments.quick else arguments.forms]
    rows = {}
    for form in [CAPTIONS, *forms]:
        dictionary, seconds = timed(lambda f=form: Dictionary.of(model, kind, [f] if f else []))
        count = dictionary.forms[form].count
        rows[form or "captions"] = {"sentences": count, "seconds": seconds}
        print(rows, file=sys.stderr, flush=True)

    movement = torch.eye(WIDTH, dtype=torch.float64)
    _, seconds = timed(lambda: dictionary.most_moved("tokens", [], movement))
    report = {"benchmark": "dictionary_cost", "threads": arguments.threads, "forms": rows}
    report["device"] = arguments.device
    results.finish({**report, "words": len(model.words()), "a_new_set_seconds": seconds})


if __name__ == "__main__":
    main()
