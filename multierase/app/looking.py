"""What the tab ``Look`` shows of increments: their cross-talk, and all that one file says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from multierase.app.session import Session, require_prompt
from multierase.composer import KEPT
from multierase.errors import UsageError
from multierase.increments.header import Header
from multierase.increments.provenance import SIDES, Provenance, in_words, step_in_words
from multierase.methods import METHODS
from multierase.pictures import matrix_picture, require_matplotlib, to_picture
from multierase.sampling import SamplingSettings
from multierase.separation.crosstalk import ENTANGLED, RELATIVE, relative_to_own
from multierase.serving import Request
from multierase.training.settings import EraseSettings

MOST_ROWS = 40  # of a heat map: more could not be read, and would be a picture of gigabytes
STRENGTHS = (0.0, 0.5, 1.0, 1.5)
SHOWN_SENTENCES = 20
LONGEST = 300  # characters of a setting
STAYING = {
    "siblings": "the siblings, which are the most alike",
    "kept": "what is kept of its kind",
    "general": "all else",
}
ELSEWHERE = ("kind", "scope", "seed", "steps")  # settings that are among the facts

Relative = dict[str, dict[str, float]]


@dataclass(frozen=True)
class HeatMap:
    """The cross-talk of a library.

    Args:
        table: by row and column what the picture shows.
        picture: of the numbers.
        words: what they mean, and which is the largest.
    """

    table: Relative
    picture: Image.Image
    words: str


@dataclass(frozen=True)
class IncrementPage:
    """All that an increment's file says, in words. Files are untrusted, so these are texts only.

    Args:
        concept: its name.
        certificate: a sentence each.
        facts: names and values.
        settings: those that are not the defaults.
        history: a step each.
        sentences: the first of them.
        count: of all sentences.
        prompt: a sentence about the concept that was held back from the training.
    """

    concept: str
    certificate: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    history: tuple[str, ...]
    sentences: tuple[str, ...]
    count: int
    prompt: str


def heat_map(session: Session) -> HeatMap:
    """Measure how much each increment moves the tokens of every concept.

    Raises:
        UsageError: if no increment of the library changes what reads the text.
        MissingExtra: without matplotlib.
    """
    require_matplotlib()
    with session.lock:
        relative = relative_to_own(session.workspace.composer.crosstalk())
    if not relative:
        raise UsageError(
            "no increment of this library changes what reads the text alone, so there is no "
            "cross-talk to show: erase a concept first"
        )

    shown = _strongest(relative)
    return HeatMap(shown, matrix_picture(shown, RELATIVE), _meaning(relative, shown))


def page_of(session: Session, concept: str) -> IncrementPage:
    """Read all that one increment's file says. Raises ``UnknownConcept`` if there is none."""
    header = session.workspace.library.header(concept)
    made = header.provenance
    history = tuple(step_in_words(step) for step in header.history)

    return IncrementPage(
        concept=concept,
        certificate=tuple(_certified(made.certificate or {})),
        facts=tuple(_facts(header)),
        settings=tuple(_settings(made)),
        history=history or ("as it was made",),
        sentences=made.prompts[:SHOWN_SENTENCES],
        count=len(made.prompts),
        prompt=_held_back(made),
    )


def before_and_after(
    session: Session,
    concept: str,
    prompt: str,
    seed: int = 0,
    sampling: SamplingSettings | None = None,
) -> list[tuple[Image.Image, str]]:
    """Make one prompt's picture at each strength, all of one seed; each with its strength.

    Raises:
        UnknownConcept: for a concept that is not in the library.
        UsageError: without a prompt.
    """
    session.workspace.library.require([concept])
    require_prompt(prompt)
    requests = [Request(prompt, seed, {concept: strength}) for strength in STRENGTHS]
    with session.lock:
        pictures = session.server.generate(requests, sampling)

    captions = [f"strength {strength:g}" if strength else "the base" for strength in STRENGTHS]
    return list(zip(map(to_picture, pictures), captions, strict=True))


def _strongest(relative: Relative) -> Relative:
    """Return the part of a table whose concepts move each other most, no larger than is read."""
    if len(relative) <= MOST_ROWS:
        return relative

    most = dict.fromkeys(relative, 0.0)
    for share, erased, moved in _pairs(relative):
        for name in {erased, moved} & most.keys():
            most[name] = max(most[name], share)

    kept = sorted(sorted(most, key=lambda name: -most[name])[:MOST_ROWS])
    columns = [*kept, *[KEPT] * (KEPT in relative[kept[0]])]
    return {name: {column: relative[name][column] for column in columns} for name in kept}


def _meaning(relative: Relative, shown: Relative) -> str:
    words = (
        "Each number says how far erasing the row's concept moves the column's, beside how far it "
        f"moves its own: 0 is best, and from {ENTANGLED} on the two are entangled."
    )
    pairs = _pairs(relative)
    if pairs:
        share, erased, moved = max(pairs)
        words += f" The largest: erasing {erased} moves {moved} by {share:.2f} of itself."
    if len(shown) < len(relative):
        words += f" Shown are the {len(shown)} of {len(relative)} concepts with the most of it."

    return words


def _pairs(relative: Relative) -> list[tuple[float, str, str]]:
    """Return each share with its two concepts; what is kept besides is no concept."""
    pairs = []
    for erased, row in relative.items():
        pairs += [(share, erased, other) for other, share in row.items() if other != erased]

    return [pair for pair in pairs if pair[2] != KEPT]


def _certified(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a certificate says: what is gone, the worst sentence, and what moved."""
    if not certificate:
        yield "There is none: no sentence about it was held back."
        return

    yield f"{in_words(certificate)}."
    worst = certificate.get("worst")
    if isinstance(worst, float):
        sentence = f"{certificate.get('worst_sentence')!s:.200}"
        yield f"The worst of them, “{sentence}”, has {worst:.0%} of the concept left."
    for side in SIDES:
        found = certificate.get(side, {})
        worst = found.get("worst")
        if isinstance(worst, float):
            prompt = f"{found.get('worst_prompt')!s:.200}"
            yield f"Of {STAYING[side]}, “{prompt}” moves most: by {worst:.0%}; 0% is best."


def _facts(header: Header) -> Iterator[tuple[str, str]]:
    made = header.provenance
    known = METHODS.get(made.method)
    yield "method", f"{made.method}: {known.about}" if known else made.method
    yield "scope", made.scope or "none was asked for"
    yield "kind", _shown(made.settings.get("kind", "not said"))
    yield "seed", "nothing was random" if made.seed is None else str(made.seed)

    if made.stop is not None:
        most = made.settings.get("steps")
        at_most = f" of at most {most}" if isinstance(most, int) else ""
        why = "it was erased" if made.stop.reason == "erased" else "the steps were used up"
        yield "steps", f"{made.stop.steps}{at_most}; {why}"
        yield "degree", f"{made.stop.degree:.2f} at the end: 1 on the base, 0 or less is gone"
    if made.cost is not None:
        yield "evaluations", f"{made.cost.evaluations:,} of the denoiser"
        yield "seconds", f"{made.cost.seconds:g}"

    yield "file", f"{header.path.name}, {header.bytes / 1e3:,.0f} kB, {header.stored}"
    yield "base", header.base.name
    yield "version", made.version or "not said"


def _settings(made: Provenance) -> Iterator[tuple[str, str]]:
    """Yield the settings that are not the defaults, or that a default left open."""
    defaults = json.loads(json.dumps(asdict(EraseSettings())))
    for name, value in sorted(made.settings.items()):
        if name not in ELSEWHERE and (name not in defaults or value != defaults[name]):
            yield name, _shown(value)


def _held_back(made: Provenance) -> str:
    """Return a sentence that the certificate asked, else one of the training, else the name."""
    questions = (made.certificate or {}).get("questions")
    for question in questions if isinstance(questions, list) else ():
        if isinstance(question, Mapping) and question.get("about") == "own":
            return str(question.get("prompt"))

    return made.prompts[0] if made.prompts else made.concept


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
