"""Where an erasure starts: the negative guidance, in closed form, in what reads the text alone."""

from __future__ import annotations

import torch

from multierase.models.model import Model
from multierase.prompts.concepts import Concept
from multierase.separation.directions import Directions

RIDGE = 1e-2  # in units of the concept's mean square along the first direction


def start(
    model: Model, concept: Concept, stream: str, directions: Directions, degree: float
) -> torch.Tensor:
    """Return ``M`` ``(d, r)``: with ``A = W M`` every reader ``W`` starts at an erasure degree.

    A reader of the text says ``W e`` of a sentence's tokens ``e``, and ``W g`` of those without the
    concept. The ESD target (arXiv 2303.07345, eq. 7), taken for the tokens instead of the noise, is
    ``a + degree (e - g)``, with ``a`` the anchor's tokens, or ``g``. So ``M`` is the ridge
    regression of ``a + degree (e - g) - e`` on ``Bᵀ e``, over all sentences. Since every sentence
    counts and the directions are few, it carries over to sentences that are not among them, which
    gradients from a few sentences do not. It takes no evaluation of the denoiser.

    Args:
        concept: with its sentences and contexts.
        directions: with the basis ``B`` ``(d, r)``.
        degree: 0 says what the context says; below, the concept's effect is turned round.
    """
    basis = directions.basis.double()
    size, rank = basis.shape
    squares = torch.zeros(rank, rank, dtype=torch.float64)
    moves = torch.zeros(size, rank, dtype=torch.float64)

    for prompt, context in zip(concept.prompts, concept.contexts, strict=True):
        pairs = aligned(model, prompt, context, stream)
        anchored = pairs
        if concept.anchor:
            anchored = aligned(model, prompt, concept.anchor, stream)
        for (own, without), (_, instead) in zip(pairs, anchored, strict=True):
            # All three begin at the last word; the longest ends the places that all have.
            count = min(len(own), len(instead))
            parts = (tokens[:count].double() for tokens in (own, without, instead))
            own, without, instead = parts
            inner, wanted = own @ basis, instead + degree * (own - without) - own
            squares += inner.T @ inner
            moves += wanted.T @ inner

    ridge = RIDGE * squares.diagonal().max() * torch.eye(rank, dtype=torch.float64)
    return torch.linalg.solve(squares + ridge, moves.T).T.float()


def aligned(
    model: Model, prompt: str, context: str, stream: str
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return ``(n, d)`` tokens of a sentence and of its context, from the last word on.

    One pair for each tokenizer that has rows in the stream.
    """
    pairs = []
    for own, without in zip(model.spans(prompt, stream), model.spans(context, stream), strict=True):
        old, new = own.last, without.last
        count = len(own.rows) - max(old, new)
        pairs.append((own.rows[old : old + count], without.rows[new : new + count]))

    return pairs
