"""What increments do to each other's tokens, known before any picture is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from multierase.increments.value import Increment, times
from multierase.separation.changes import Changes

Grams = Mapping[str, torch.Tensor]  # by stream


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
    active, strengths = changes.active, changes.strengths
    off, alone = dict.fromkeys(active, 0.0), dict.fromkeys(active, 0.0)

    for parameter, read in changes.readers.items():
        if stream not in (None, read):
            continue
        total = changes.delta(parameter)
        for name, increment in active.items():
            delta, factor = increment.deltas.get(parameter), increment.grams.get(read)
            if delta is None or factor is None:
                continue
            own = strengths[name] * times(delta, factor)
            off[name] += (times(total, factor) - own).double().square().sum().item()
            alone[name] += own.double().square().sum().item()

    return {name: math.sqrt(off[name] / alone[name]) for name in active if alone[name]}


def _inner(matrices: list[torch.Tensor]) -> torch.Tensor:
    """Return ``Σ Wᵀ W`` in float64."""
    squares = [matrix.double().T @ matrix.double() for matrix in matrices]

    return sum(squares[1:], squares[0])
