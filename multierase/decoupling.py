"""Directions of the text embedding that an increment may use: the concept's own, less what must not change."""

from __future__ import annotations

import torch

NUMERICAL_RANK = 1e-6  # of the largest singular value: below it a direction is float32's rounding


def gram(tokens: torch.Tensor) -> torch.Tensor:
    """``Eᵀ E`` ``(d, d)`` of ``(n, d)`` token embeddings, float64: all that projecting needs of a long keep-list."""
    return tokens.double().T @ tokens.double()


def directions(
    own: torch.Tensor, exact: torch.Tensor, kept: torch.Tensor | None, *, tolerance: float, ridge: float
) -> torch.Tensor:
    """Directions of the text embedding along which the concept can be moved and little else moves.

    In ``to_k`` and ``to_v`` the input is the text embedding, so an increment ``Δ = A Bᵀ`` with ``Bᵀ E = 0`` leaves the
    tokens ``E`` exactly as they were; and on the concept's own prompts the gradient never leaves the span of their
    tokens anyway, so ``A`` is all there is to train. A short list can be kept exactly. A rich one spans everything, and
    is kept in the mean instead: with ``C`` the covariance of its tokens, the columns of ``B`` are the right singular
    vectors of the concept's tokens in the metric of ``C + ridge``, so that a step of one size along any of them moves
    the kept tokens by one size, and the concept's by its singular value.

    Args:
        own: ``(n, d)`` token embeddings of the concept's prompts.
        exact: ``(m, d)`` token embeddings that must not change at all.
        kept: ``(d, d)`` Gram matrix of token embeddings that should change as little as can be; ``None`` for none.
        tolerance: directions of what is left of ``own`` whose singular value is less than this share of the largest
            are not used.
        ridge: in units of the kept tokens' mean variance.

    Returns:
        ``B``: ``(d, r)``, ``r <= n``, float32, scaled so that a unit step along the first column moves the concept's
        tokens by one in the root mean square.

    Raises:
        ValueError: where nothing of the concept is left: the prompts to keep exactly say all that it does.
    """
    own, exact = own.double(), exact.double()
    _, scales, rows = torch.linalg.svd(exact, full_matrices=False)
    protected = rows[scales > NUMERICAL_RANK * scales[0]]
    free = torch.eye(own.shape[1], dtype=torch.float64) - protected.T @ protected
    metric = free
    if kept is not None:
        covariance = kept / kept.trace().clamp_min(torch.finfo(torch.float64).tiny) * len(kept)
        squares, vectors = torch.linalg.eigh(free @ covariance @ free)
        metric = free @ (vectors * (squares.clamp_min(0) + ridge).rsqrt()) @ vectors.T
    _, sizes, basis = torch.linalg.svd(own @ metric, full_matrices=False)
    rank = int((sizes > tolerance * sizes[0]).sum())
    if torch.linalg.matrix_norm(own @ free) < 1e-3 * torch.linalg.matrix_norm(own):
        raise ValueError(
            "the concept's token embeddings lie in the span of those that are to be kept: nothing is left to erase it "
            "by; keep fewer prompts"
        )
    return (metric @ basis[:rank].T * len(own) ** 0.5 / sizes[0]).float().contiguous()
