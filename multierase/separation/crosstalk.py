"""What increments do to each other's tokens, known before any picture is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from multierase.increments.value import Increment, times
from multierase.separation.changes import Changes, Stack

ENTANGLED = 0.5  # share of an increment's own effect; from here on it is worth a warning

RELATIVE = "how much a row's increment moves a column's tokens, relative to its own"

Grams = Mapping[str, torch.Tensor]  # by stream


@dataclass(frozen=True)
class Entangled:
    """A pair of concepts: erasing ``erased`` also changes ``moved``.

    Args:
        share: the effect on the other's tokens, as a share of the effect on its own.
    """

    erased: str
    moved: str
    share: float


def entangled_in(
    table: Mapping[str, Mapping[str, float]],
    named: Collection[str],
    concepts: Collection[str] | None = None,
) -> list[Entangled]:
    """Return the pairs of a cross-talk table that are worth a warning.

    Args:
        table: as ``Composer.crosstalk`` gives it.
        named: the concepts among its columns.
        concepts: only pairs with one of these; all by default.
    """
    found = []
    for erased, moves in table.items():
        own = moves.get(erased, 0.0)
        for moved, move in moves.items():
            wanted = concepts is None or {erased, moved} & set(concepts)
            if moved == erased or moved not in named or not wanted or not own:
                continue
            if move / own > ENTANGLED:
                found.append(Entangled(erased, moved, move / own))

    return found


def relative_to_own(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Divide each increment's effects ``X_ij`` by that on its own tokens, ``X_ii``."""
    return {
        name: {other: effect / row[name] if row[name] else 0.0 for other, effect in row.items()}
        for name, row in table.items()
    }


def crosstalk_of(
    increment: Increment, grams: Mapping[str, Grams], pristine: Callable[[str], torch.Tensor]
) -> dict[str, float]:
    """Return ``X_j = ‖Δ E_j‖ / ‖W0 E_j‖`` for each concept ``j``.

    Over the parameters that read the text alone, by ``‖Δ E‖² = ⟨Δᵀ Δ, E Eᵀ⟩``.

    Args:
        grams: by concept the Gram matrices ``E Eᵀ`` ``(d, d)`` float64 of its tokens.
        pristine: gives the base's own values of a parameter.
    """
    changed: dict[str, torch.Tensor] = {}
    whole: dict[str, torch.Tensor] = {}
    for stream in sorted(set(increment.readers.values())):
        names = [name for name in increment.deltas if increment.readers.get(name) == stream]
        changed[stream] = _inner([increment.dense(name) for name in names])
        whole[stream] = _inner([pristine(name).cpu() for name in names])

    moves = {}
    for concept, own in grams.items():
        streams = [stream for stream in changed if stream in own]
        moved = sum((changed[stream] * own[stream]).sum().item() for stream in streams)
        size = sum((whole[stream] * own[stream]).sum().item() for stream in streams)
        moves[concept] = math.sqrt(max(moved, 0.0) / size) if size > 0 else 0.0

    return moves


def deviations_of(changes: Changes, stream: str | None = None) -> dict[str, float]:
    """Return ``‖(ΔW − s_i Δ_i) E_i‖ / ‖s_i Δ_i E_i‖`` for each erased concept.

    Concepts without a Gram matrix, or whose increment does nothing to its own tokens, have none.

    Args:
        stream: over the parameters that read this one; by default over those of all.
    """
    off, alone = dict.fromkeys(changes.active, 0.0), dict.fromkeys(changes.active, 0.0)
    streams = sorted(set(changes.readers.values())) if stream is None else [stream]
    for read in streams:
        stacks, dense = changes.stacks(read)
        found = [_of_stack(changes, stack, read) for stack in stacks]
        found += [_of_dense(changes, parameter, read) for parameter in dense]
        for squares in found:
            for name, (from_own, own) in squares.items():
                off[name] += from_own
                alone[name] += own

    return {name: math.sqrt(off[name] / own) for name, own in alone.items() if own}


Squares = dict[str, tuple[float, float]]
"""By concept ``‖(ΔW − s_i Δ_i) E_i‖²`` and ``‖s_i Δ_i E_i‖²``."""


def _of_stack(changes: Changes, stack: Stack, stream: str) -> Squares:
    """Sum over a stack's parameters: ``‖U x‖² = ⟨Uᵀ U x, x⟩``, so their number does not count.

    Nor does the number of concepts, but once: ``‖A − B‖² = ‖A‖² − 2 ⟨A, B⟩ + ‖B‖²``.
    """
    tokens = {
        name: changes.active[name].grams[stream].double()
        for name in stack.alone
        if stream in changes.active[name].grams
    }
    moved = stack.whole @ torch.cat(list(tokens.values()), dim=1) if tokens else torch.zeros(0)
    widths = [factor.shape[1] for factor in tokens.values()]
    together = dict(zip(tokens, moved.split(widths, dim=-1), strict=True))

    found, first = {}, 0
    for name, down in stack.alone.items():
        rows, first = slice(first, first + len(down)), first + len(down)
        if name not in tokens:
            continue

        own = changes.strengths[name] * (down.double() @ tokens[name])
        alone = ((stack.up_gram[rows, rows] @ own) * own).sum()
        both = ((stack.mixed[:, rows].T @ tokens[name]) * own).sum()
        # Rounding may leave a little less than nothing.
        from_own = ((together[name] * tokens[name]).sum() - 2 * both + alone).clamp_min(0)
        found[name] = from_own.item(), alone.item()

    return found


def _of_dense(changes: Changes, parameter: str, stream: str) -> Squares:
    found = {}
    total = changes.added(torch.zeros(changes.shapes[parameter]), parameter)
    for name, increment in changes.active.items():
        delta, factor = increment.deltas.get(parameter), increment.grams.get(stream)
        if delta is not None and factor is not None:
            own = (changes.strengths[name] * times(delta, factor)).double()
            rest = (total @ factor).double() - own
            found[name] = rest.square().sum().item(), own.square().sum().item()

    return found


def _inner(matrices: list[torch.Tensor]) -> torch.Tensor:
    """Return ``Σ Wᵀ W`` in float64."""
    squares = [matrix.double().T @ matrix.double() for matrix in matrices]

    return sum(squares[1:], squares[0])
