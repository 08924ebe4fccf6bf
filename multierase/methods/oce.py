"""Orthogonal Concept Erasure (arXiv 2605.28902): turn what attention sums away from a concept."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, closed
from multierase.methods.closed import Edit
from multierase.models.model import Model
from multierase.separation.directions import NUMERICAL_RANK

# Those of the authors' script for a style, which erases six sentences and keeps two names.
ERASE = 500.0
GENERAL = 10.0  # of the mean over all kept tokens
NAMED = 2.0  # of the mean over the kept words
RIDGE = 10.0

SETTINGS = {"erase": ERASE, "general": GENERAL, "named": NAMED, "ridge": RIDGE}


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Turn the values for each concept alone."""
    return closed.produce(model, order, "oce", solve, SETTINGS)


def solve(edit: Edit) -> dict[str, torch.Tensor]:
    """Return ``P W − W`` of every layer of attention's values, with ``P`` orthogonal.

    The method multiplies: ``W* = P W``. Its increment is stored as the difference, so it is added
    to others' as they are, where the method would solve for a set anew. ``P`` is as near as a
    rotation can be to ``M = −α G (1 − G*) + β₁ Σ v vᵀ + β₂ W C Wᵀ + λ W Wᵀ`` (orthogonal
    Procrustes): ``G`` projects on what the layer says of the concept's last words, ``G*`` on what
    it says of those of the contexts, ``v = W p`` is what it says of the kept last words, and ``C``
    the mean Gram matrix of all kept tokens, in place of a set of captions'.

    The authors erase a name and five sentences about nothing else. So of a concept's sentences
    those with the shortest context are taken: more of them would span the whole layer.
    """
    deltas = {}
    for stream in edit.model.streams:
        old, new = edit.plainest().words(stream)
        ridge = RIDGE * torch.eye(old.shape[1], dtype=torch.float64)
        kept = _kept(edit, stream) + ridge

        for name in (name for name, own in edit.values.items() if own == stream):
            weight = edit.weight(name)
            erased, guide = _span(old @ weight.T), _span(new @ weight.T)
            identity = torch.eye(len(weight), dtype=torch.float64)
            away = ERASE * erased @ (identity - guide)
            turn = _rotation(weight @ kept @ weight.T - away)
            deltas[name] = turn @ weight - weight

    return deltas


def _kept(edit: Edit, stream: str) -> torch.Tensor:
    """Return ``β₁ Σ p pᵀ + β₂ C`` ``(d, d)``; the empty prompt is kept where no other is."""
    tokens, words = edit.kept_tokens(stream), edit.kept_words(stream)
    if not len(tokens):
        tokens = words = edit.empty(stream)

    return GENERAL * tokens.T @ tokens / len(tokens) + NAMED * words.T @ words / len(words)


def _span(vectors: torch.Tensor) -> torch.Tensor:
    """Return the projection ``(o, o)`` on what ``(n, o)`` vectors span, as long as one another."""
    longest = torch.finfo(torch.float64).tiny
    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(longest)
    _, sizes, rows = torch.linalg.svd(unit, full_matrices=False)
    spanned = rows[sizes > NUMERICAL_RANK * sizes[0]]

    return spanned.T @ spanned


def _rotation(wanted: torch.Tensor) -> torch.Tensor:
    """Return the rotation ``P`` ``(o, o)`` that is nearest to ``wanted``.

    A reflection is undone in the direction that matters least; the authors' code changes the sign
    of ``P``'s last column, which says nothing in particular.
    """
    left, _, right = torch.linalg.svd(wanted)
    left[:, -1] *= torch.linalg.det(left @ right).sign()

    return left @ right
