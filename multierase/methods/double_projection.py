"""Double Projections (arXiv 2604.10032): to what is safe, and beside what is kept."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multierase.errors import ConceptRefused
from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, closed
from multierase.methods.closed import Edit
from multierase.models.model import Model
from multierase.separation.directions import LEAST_RESIDUAL

# No number of the paper's is public. These were chosen by hand on the embedded base.
SAFE = 0.05  # of the largest mean square: a direction is safe in which contexts extend as far
KEPT = 0.002  # of the largest mean square: so far may what is kept extend in a direction to edit
LEAST = 0.01  # of the largest singular value: below it nothing of the concept is told apart

SETTINGS = {"safe": SAFE, "kept": KEPT, "least": LEAST}


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Edit the weights for each concept alone."""
    return closed.produce(model, order, "double-projection", solve, SETTINGS)


def solve(edit: Edit) -> dict[str, torch.Tensor]:
    """Return ``Δ = W (c* − c) xᵀ/‖x‖² U₂ᵀ`` with ``x = U₂ᵀ c``, for what reads the text alone.

    ``c*`` is ``c``'s projection on a safe subspace, and ``U₂`` the left null space of what is
    kept. The abstract has the two projections; what follows is assumed. The concept has many
    tokens ``c``, those of ``uce``, so ``xᵀ/‖x‖²`` is the pseudo-inverse of all ``x``. What is safe
    is what their contexts' tokens span, and what is kept are the kept prompts' tokens and the
    empty prompt's. Both span everything to some extent, so small directions do not count.

    Raises:
        ConceptRefused: if what is kept leaves no direction that the concept uses.
    """
    transfers = {}
    for stream in edit.model.streams:
        old, new = edit.tokens(stream)
        kept = torch.cat([edit.kept_tokens(stream), edit.empty(stream)])
        transfers[stream] = _transfer(old, _wide(new, SAFE)[0], _wide(kept, KEPT)[1])

    return {name: edit.weight(name) @ transfers[stream] for name, stream in edit.readers.items()}


def _transfer(old: torch.Tensor, safe: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """Return ``(d, d)`` for ``W = 1``.

    Args:
        old: ``(n, d)`` tokens ``c``.
        safe: ``(d, s)`` orthonormal directions.
        free: ``U₂`` ``(d, r)``.
    """
    inner = old @ free
    if inner.norm() < LEAST_RESIDUAL * old.norm():
        raise ConceptRefused(
            "the prompts to keep use every direction that this concept uses: nothing is left to "
            "erase it by; keep fewer prompts"
        )

    moves = old @ safe @ safe.T - old
    return (free @ torch.linalg.pinv(inner, rtol=LEAST) @ moves).T


def _wide(tokens: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide all directions into those in which ``(n, d)`` tokens extend, and the others.

    Args:
        share: of the largest mean square, from which on a direction is one of the first.
    """
    squares, vectors = torch.linalg.eigh(tokens.T @ tokens)
    wide = squares >= share * squares[-1]

    return vectors[:, wide], vectors[:, ~wide]
