"""Which sets of concepts a sweep erases, and in which order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Literal, get_args

from multierase.errors import UsageError, suggest

Sets = Literal["subsets", "pairs", "leave-one-out", "single", "random", "list", "order"]
SETS: tuple[str, ...] = get_args(Sets)
Erased = tuple[str, ...]
"""The erased concepts, sorted: the state of a model is a set, never a history."""
Stage = tuple[str, Erased]
"""An event, which is empty unless the stages are an order, and what is erased after it."""

MOST_SUBSETS = 2**20  # more cannot be judged, and would fill the memory as a list


def concept_sets(
    sets: Sets,
    concepts: Sequence[str],
    *,
    count: int = 0,
    seed: int = 0,
    listed: Sequence[Sequence[str]] = (),
    events: Sequence[str] = (),
) -> list[Stage]:
    """List the stages of a sweep. Only in an ``order`` may a set come twice.

    Args:
        sets: ``subsets`` all that erase any; ``single`` each alone; ``pairs``; ``leave-one-out``
            all but each; ``random`` ``count`` different ones of all subsets, drawn with ``seed``;
            ``list`` those of ``listed``; ``order`` the stages after each of ``events``, such as
            ``["erase A", "erase B", "restore A"]``.
        concepts: all that can be erased.

    Raises:
        UsageError: for an unknown kind or concept, a concept given twice, more sets than can be, or
            an event that does not fit the state before it.
    """
    if sets not in SETS:
        raise UsageError(f"unknown sets {sets!r}{suggest(sets, SETS)}; give one of {sorted(SETS)}")
    require_once(concepts)
    names = sorted(concepts)

    if sets == "order":
        return _ordered(events, names)
    if sets == "random":
        return [("", _numbered(number, names)) for number in _drawn(count, seed, names)]
    if sets == "list":
        found = [_listed(given, names) for given in listed]
    else:
        found = _combinations(sets, names)

    return [("", erased) for erased in dict.fromkeys(found)]


def require_once(concepts: Sequence[str]) -> None:
    """Raise ``UsageError`` if a concept is given twice."""
    twice = sorted({name for name in concepts if list(concepts).count(name) > 1})
    if twice:
        raise UsageError(f"given twice: {twice}; give each concept once")


def _combinations(sets: str, names: Sequence[str]) -> list[Erased]:
    sizes = {
        "subsets": range(1, len(names) + 1),
        "single": [1],
        "pairs": [2],
        "leave-one-out": [len(names) - 1],
    }[sets]
    if sets == "subsets" and 2 ** len(names) > MOST_SUBSETS:
        raise UsageError(
            f"{len(names)} concepts have 2^{len(names)} subsets: give fewer --concepts, or some of "
            "the sets by chance with --sets random --count N"
        )

    found = []
    for size in sizes:
        found += itertools.combinations(names, size)

    return found


def _listed(given: Sequence[str], names: Sequence[str]) -> Erased:
    require_once(given)

    return tuple(sorted(_known(names, name) for name in given))


def _drawn(count: int, seed: int, names: Sequence[str]) -> list[int]:
    every = 2 ** len(names) - 1
    if not 1 <= count <= every:
        raise UsageError(f"{count} random sets: {len(names)} concepts have {every}")

    # Never a list of all of them: there may be 2^40.
    chance, numbers = random.Random(seed), {}
    while len(numbers) < count:
        numbers.setdefault(chance.randint(1, every))

    return list(numbers)


def _numbered(number: int, names: Sequence[str]) -> Erased:
    return tuple(name for place, name in enumerate(names) if number >> place & 1)


def _known(names: Sequence[str], name: str) -> str:
    if name not in names:
        raise UsageError(f"unknown concept {name!r}{suggest(name, names)}; there are {list(names)}")

    return name


def _ordered(events: Sequence[str], names: Sequence[str]) -> list[Stage]:
    erased: set[str] = set()
    stages = []
    for event in events:
        what, _, name = event.strip().partition(" ")
        name = _known(names, name.strip())
        if what not in ("erase", "restore") or (what == "erase") == (name in erased):
            raise UsageError(
                f"event {event!r}: give 'erase CONCEPT' of one that is not erased, or 'restore "
                f"CONCEPT' of one that is; erased then: {sorted(erased)}"
            )

        erased ^= {name}
        stages.append((event.strip(), tuple(sorted(erased))))

    if not stages:
        raise UsageError("an order needs events, such as 'erase Noto', 'restore Noto'")

    return stages
