"""Another tool's increment, brought into a concept's own directions."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from multierase.errors import WeightsFileError
from multierase.increments.value import Delta, Factors, times
from multierase.separation.directions import Directions

# Of the concept's mean square along the first direction. A smaller one keeps more of the effect on
# the concept's own tokens, along weak directions that are others' too: between 1e-2 and 1e-5, this
# one did best for a file of three studios, summed.
RIDGE = 1e-3


def projected(
    deltas: Mapping[str, Delta],
    readers: Mapping[str, str],
    grams: Mapping[str, torch.Tensor],
    directions: Mapping[str, Directions],
) -> tuple[dict[str, Delta], float]:
    """Return ``A Bᵀ`` for each ``Δ`` that reads the text alone, nearest on the concept's tokens.

    Minimises ``‖(Δ − A Bᵀ) E‖²`` over the concept's tokens ``E``: with ``C = E Eᵀ``, ``A = Δ C B
    (Bᵀ C B)⁻¹``. What the increment does to the tokens of everything else is left to ``B``, which
    is as far from those as can be; the exactly kept prompts stay exactly as they are.

    Args:
        readers: by parameter its stream; all others are left out.
        grams: by stream ``F`` ``(d, r)`` with ``F Fᵀ = C``.
        directions: by stream, with ``B`` ``(d, r)``.

    Returns:
        The factors, which share one ``down`` for each stream, and the share of the effect on the
        concept's tokens that they keep.

    Raises:
        WeightsFileError: if nothing reads the text alone.
    """
    found: dict[str, Delta] = {}
    left = whole = 0.0
    for stream, own in directions.items():
        factor, basis = grams[stream].double(), own.basis.double()
        through = _through(factor, basis).float()
        down = own.basis.T.contiguous()
        for name, delta in deltas.items():
            if readers.get(name) != stream:
                continue
            found[name] = Factors(times(delta, through).contiguous(), down)
            before, after = times(delta, grams[stream]), times(found[name], grams[stream])
            left += (before - after).double().square().sum().item()
            whole += before.double().square().sum().item()

    if not found:
        raise WeightsFileError(
            "it changes nothing that reads the text alone, so there is nothing to bring into the "
            "concept's directions: import it without --project"
        )
    return found, 1 - left / whole if whole else 0.0


def _through(factor: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return ``C B (Bᵀ C B)⁻¹`` ``(d, r)``, with a ridge."""
    inner = basis.T @ factor
    squares = inner @ inner.T
    ridge = RIDGE * squares.diagonal().max() * torch.eye(len(squares), dtype=torch.float64)

    return torch.linalg.solve(squares + ridge, inner @ factor.T).T
