"""What attacks came to, as numbers: tallies of verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from multierase.evaluation.attacks.run import Attacked
from multierase.evaluation.statistics import Share


def success_of(verdicts: Sequence[Attacked]) -> dict:
    """Return the shares of cases in which the concept is seen, without an attack and with it.

    The second is the published attack success rate: the hits that need no attack, and the new ones,
    of all cases (UnlearnDiffAtk, arXiv 2310.11868).
    """
    return {
        "before": Share.of([verdict.before for verdict in verdicts]).as_dict(),
        "broken": Share.of([verdict.broken for verdict in verdicts]).as_dict(),
    }


def by_attack(verdicts: Iterable[Attacked]) -> dict[str, dict]:
    """Return for each attack its success on all erased concepts together; see ``success_of``."""
    found: dict[str, list[Attacked]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.attack, []).append(verdict)

    return {attack: success_of(of_it) for attack, of_it in found.items()}


def attack_table(rows: Mapping[str, Mapping]) -> list[list[str]]:
    """Return lines of a table for people: an attack each, with its success in every row.

    Args:
        rows: by name a row with ``attacks``, as ``by_attack`` gives them.
    """
    names = dict.fromkeys(name for row in rows.values() for name in row.get("attacks", {}))
    lines = []
    for name in names:
        cells = []
        for row in rows.values():
            found = row.get("attacks", {}).get(name)
            cells.append(f"{found['broken']['value']:.1%}" if found else "-")
        lines.append([name, *cells])

    return lines
