"""Which sets of concepts a sweep erases, and in which order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Literal, get_args

from multierase.increments import suggest

Sets = Literal["subsets", "pairs", "leave-one-out", "single", "random", "list", "order"]
Erased = tuple[str, ...]  # sorted; the composer's state is a set


def plan(
    sets: Sets,
    concepts: Sequence[str],
    *,
    count: int = 0,
    seed: int = 0,
    listed: Sequence[Sequence[str]] = (),
    events: Sequence[str] = (),
) -> list[tuple[str, Erased]]:
    """``(event, erased concepts)`` of every moment of a sweep; a set may come twice in an ``order``.

    Args:
        sets: ``subsets`` all that erase any; ``single`` each alone; ``pairs``; ``leave-one-out`` all but each;
            ``random`` ``count`` different ones of all subsets, drawn with ``seed``; ``list`` those of ``listed``;
            ``order`` the moments of ``events``, such as ``["erase A", "erase B", "restore A"]``.
        concepts: what a library holds.

    Raises:
        ValueError: for an unknown kind or concept, more random sets than there are, or an event that cannot be.
    """
    if sets not in get_args(Sets):
        raise ValueError(f"sets {sets!r}{suggest(sets, get_args(Sets))}; give one of {list(get_args(Sets))}")
    names = sorted(concepts)
    if sets == "order":
        return _moments(events, names)
    if sets == "random":
        return [("", _numbered(number, names)) for number in _drawn(count, seed, names)]
    if sets == "list":
        found = [tuple(sorted(_known(names, name) for name in given)) for given in listed]
    else:
        sizes = {
            "subsets": range(1, len(names) + 1), "single": [1], "pairs": [2], "leave-one-out": [len(names) - 1]
        }[sets]  # fmt: skip
        found = [off for size in sizes for off in itertools.combinations(names, size)]
    return [("", off) for off in dict.fromkeys(found)]


def _drawn(count: int, seed: int, names: Sequence[str]) -> list[int]:
    every = 2 ** len(names) - 1
    if not 1 <= count <= every:
        raise ValueError(f"{count} random sets: {len(names)} concepts have {every}")
    chance, numbers = random.Random(seed), {}
    while len(numbers) < count:  # never a list of all of them: there may be 2^40
        numbers.setdefault(chance.randint(1, every))
    return list(numbers)


def _numbered(number: int, names: Sequence[str]) -> Erased:
    return tuple(name for place, name in enumerate(names) if number >> place & 1)


def _known(names: Sequence[str], name: str) -> str:
    if name not in names:
        raise ValueError(f"no increment for {name!r}{suggest(name, names)}; there are {list(names)}")
    return name


def _moments(events: Sequence[str], names: Sequence[str]) -> list[tuple[str, Erased]]:
    off: set[str] = set()
    found = []
    for event in events:
        what, _, name = event.strip().partition(" ")
        name = _known(names, name.strip())
        if what not in ("erase", "restore") or (what == "erase") == (name in off):
            raise ValueError(
                f"event {event!r}: give 'erase CONCEPT' of one that is on, or 'restore CONCEPT' of one that is off; "
                f"off now: {sorted(off)}"
            )
        off ^= {name}
        found.append((event.strip(), tuple(sorted(off))))
    if not found:
        raise ValueError("an order needs events, such as 'erase Noto', 'restore Noto'")
    return found
