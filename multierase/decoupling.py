"""Directions of the text embedding that an increment may use: the concept's own, less those that must not change."""

from __future__ import annotations

import torch


def directions(own: torch.Tensor, kept: torch.Tensor, tolerance: float) -> torch.Tensor:
    """An orthonormal basis of what the concept's tokens say and the kept tokens do not.

    In ``to_k`` and ``to_v`` the input is the text embedding, so an increment ``Δ = A Bᵀ`` with ``Bᵀ E = 0`` leaves the
    tokens ``E`` exactly as they were, and on the concept's own prompts the gradient never leaves their span anyway:
    with ``B`` spanning the concept's tokens after those of ``E`` are projected out, ``A`` is all there is to train.

    Args:
        own: ``(n, d)`` token embeddings of the concept's prompts.
        kept: ``(m, d)`` token embeddings that must not change.
        tolerance: kept directions whose singular value is below this share of the largest are not protected; the same
            share of the largest decides the rank of what is left of the concept.

    Returns:
        ``B``: ``(d, r)``, ``r <= n``, float32.

    Raises:
        ValueError: where nothing of the concept is left: the kept prompts say all that it does.
    """
    own, kept = own.double(), kept.double()
    _, scales, rows = torch.linalg.svd(kept, full_matrices=False)
    protected = rows[scales > tolerance * scales[0]]
    left = own - (own @ protected.T) @ protected
    _, left_scales, basis = torch.linalg.svd(left, full_matrices=False)
    rank = int((left_scales > tolerance * torch.linalg.matrix_norm(own, 2)).sum())
    if rank == 0:
        raise ValueError(
            "the concept's token embeddings lie in the span of those that are to be kept: nothing is left to erase it "
            "by; keep fewer prompts, or raise the tolerance"
        )
    return basis[:rank].T.float().contiguous()
