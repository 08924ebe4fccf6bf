"""What the verbs share: the console, and models opened and composed as the command line says."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
from jsonargparse import Namespace

from multierase.base import Base, load_base
from multierase.composer import Composer, wants_keep_list
from multierase.concepts import TaggedPrompt, read_prompts
from multierase.increments import reads_text
from multierase.library import Library
from multierase.settings import UsageError

stderr = rich.console.Console(stderr=True)
logger = logging.getLogger(__name__)

ENTANGLED = 0.5  # share of a concept's own effect: from here on, composing is worth a warning


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """On stdout: for people; scripts take ``--json``."""
    table = rich.table.Table(title=title, box=rich.box.SIMPLE)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    rich.console.Console().print(table)


def open_base(arguments: Namespace) -> Base:
    return load_base(arguments.base, device=arguments.device, dtype=arguments.dtype, config=arguments.base_config)


def settings_of(kind: type, arguments: Namespace):
    return kind(**{field.name: arguments[field.name] for field in dataclasses.fields(kind)})


def strengths_of(given: Sequence[str]) -> dict[str, float]:
    """``["Noto=0.5", "Twemoji"]`` -> ``{"Noto": 0.5, "Twemoji": 1.0}``."""
    strengths = {}
    for item in given:
        name, equals, strength = item.rpartition("=")
        try:
            strengths[name if equals else item] = float(strength) if equals else 1.0
        except ValueError:
            raise UsageError(f"--erase {item!r}: give CONCEPT or CONCEPT=STRENGTH, the strength a number") from None
    return strengths


def composed(arguments: Namespace, base: Base) -> Composer:
    strengths = strengths_of(arguments.erase)
    if strengths and arguments.library is None:
        raise UsageError("--erase needs --library, the folder of increments")
    library = Library(arguments.library) if arguments.library else {}
    if strengths:
        library.require(list(strengths))
    both = sorted(set(strengths) & set(arguments.keep))
    if both:
        raise UsageError(f"both to erase and to keep: {both}; decide for one")
    keep = None
    listed = [*base.known_prompts, *listed_in(arguments.keep_file), *map(TaggedPrompt, arguments.keep)]
    if strengths and wants_keep_list(arguments.solve, bool(listed)):
        keep = library.keep_list(base.text, listed)
    composer = Composer(base.unet, library, solve=arguments.solve, keep=keep, keep_weight=arguments.keep_weight)
    composer.set(strengths)
    if composer.solve != "sum":
        for concept in composer.off:
            if summed := [name for name in library[concept].deltas if not reads_text(name)]:
                logger.warning(
                    "%r changes %d weights beside keys and values: those do not read the text alone and are summed, "
                    "whatever the solve",
                    concept,
                    len(summed),
                )
    return composer


def deviations_of(composer: Composer) -> dict[str, float]:
    """Of what is composed now; with a warning of those that are far off."""
    deviations = composer.deviations()
    for concept, deviation in deviations.items():
        if deviation > ENTANGLED:
            logger.warning(
                "what is done to %r differs by %.0f %% from what its increment does alone: look at its pictures, or "
                "try another --solve",
                concept,
                100 * deviation,
            )
    return deviations


def listed_in(path: str | None) -> list[TaggedPrompt]:
    return read_prompts(path) if path else []
