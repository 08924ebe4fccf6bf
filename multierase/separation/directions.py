"""Directions of a text embedding along which a concept is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multierase.errors import ConceptRefused
from multierase.models.model import Model
from multierase.prompts.concepts import Concept

LEAST_RESIDUAL = 1e-3  # of a concept's norm beside what is kept exactly; with less it is refused
NUMERICAL_RANK = 1e-6  # of the largest singular value; below it a direction is float32's rounding
ROWS_AT_ONCE = 2**15  # in float64
MANY = 2**26  # numbers; the singular values of more would take minutes and a large memory
TINY = torch.finfo(torch.float64).tiny
SAME = 1e-4  # of the largest number of a sentence: two tokens are one


@dataclass(frozen=True)
class Directions:
    """Directions of one stream's embedding to erase a concept along.

    Args:
        basis: ``B`` ``(d, r)``, ``r <= n``, float32, scaled so that a unit step along the first
            column moves the concept's tokens by one in the root mean square.
        residual: share of the tokens' norm that is left beside what is kept exactly.
    """

    basis: torch.Tensor
    residual: float

    @property
    def rank(self) -> int:
        """The number of directions."""
        return self.basis.shape[1]


def gram(tokens: torch.Tensor) -> torch.Tensor:
    """Return ``Eᵀ E`` ``(d, d)`` of token embeddings ``(n, d)`` in float64, on the CPU.

    It is computed where the tokens are: those of T5 are hundreds of times as many as there are
    sentences.
    """
    total = torch.zeros((), dtype=torch.float64, device=tokens.device)
    for rows in tokens.split(ROWS_AT_ONCE):
        wide = rows.double()
        total = total + wide.T @ wide

    return total.cpu()


def compact(tokens: torch.Tensor) -> torch.Tensor:
    """Return rows ``(m, d)`` float64 on the CPU that have the same Gram matrix.

    They are the tokens themselves unless these are very many.
    """
    if tokens.numel() <= MANY or len(tokens) <= tokens.shape[1]:
        return tokens.double().cpu()

    squares, vectors = torch.linalg.eigh(gram(tokens).to(tokens.device))
    return (vectors * squares.clamp_min(0).sqrt()).T.cpu()


def covariance(gram: torch.Tensor) -> torch.Tensor:
    """Return a Gram matrix in units of its mean variance: a long list weighs as a short one."""
    return gram.double() / gram.double().trace().clamp_min(TINY) * len(gram)


def directions(
    own: torch.Tensor,
    exact: torch.Tensor,
    kept: torch.Tensor | None,
    *,
    tolerance: float,
    ridge: float,
) -> Directions:
    """Find directions that change the concept and little else.

    A parameter that reads the text alone has the text embedding as its input. So an increment
    ``Δ = A Bᵀ`` with ``Bᵀ E = 0`` leaves the tokens ``E`` exactly as they were. On the concept's
    own prompts the gradient never leaves the span of their tokens, so ``A`` is all there is to
    train.

    A short list can be kept exactly. A rich one spans everything, and is kept in the mean instead:
    with ``C`` the covariance of its tokens, the columns of ``B`` are the right singular vectors of
    the concept's tokens in the metric of ``C + ridge``, each as long as its singular value, which
    says how much more a direction moves the concept than what is kept.

    Adam takes steps of one size in every coordinate. So it moves the weights in proportion to how
    much of a direction is the concept's own, instead of wearing down everything else in the
    hundreds of directions that say nothing of the concept.

    Args:
        own: ``(n, d)`` token embeddings of the concept's prompts.
        exact: ``(m, d)`` token embeddings that must not change at all.
        kept: ``(d, d)`` Gram matrix of token embeddings that should change as little as can be;
            ``None`` for none.
        tolerance: directions of what is left of ``own`` with a singular value below this share of
            the largest are not used.
        ridge: in units of the kept tokens' mean variance.

    Raises:
        ConceptRefused: if nothing of the concept is left.
    """
    count = len(own)
    own, exact = compact(own), compact(exact)
    free = _free_of(exact)
    metric = free if kept is None else _metric(free, kept, ridge)

    _, sizes, basis = torch.linalg.svd(own @ metric, full_matrices=False)
    rank = int((sizes > tolerance * sizes[0]).sum())
    residual = (torch.linalg.matrix_norm(own @ free) / torch.linalg.matrix_norm(own)).item()
    if residual < LEAST_RESIDUAL:
        raise ConceptRefused(
            "the prompts to keep use every direction that this concept uses: nothing is left to "
            f"erase it by ({residual:.1e} of its tokens' norm); keep fewer prompts"
        )

    columns = metric @ basis[:rank].T * (sizes[:rank] / sizes[0])
    return Directions((columns * count**0.5 / sizes[0]).float().contiguous(), residual)


def _free_of(exact: torch.Tensor) -> torch.Tensor:
    """Return the projection on what is orthogonal to the rows of ``exact``."""
    _, scales, rows = torch.linalg.svd(exact, full_matrices=False)
    protected = rows[scales > NUMERICAL_RANK * scales[0]]

    return torch.eye(exact.shape[1], dtype=torch.float64) - protected.T @ protected


def _metric(free: torch.Tensor, kept: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return ``(C + ridge)^-½`` within the free directions."""
    squares, vectors = torch.linalg.eigh(free @ covariance(kept) @ free)

    return free @ (vectors * (squares.clamp_min(0) + ridge).rsqrt()) @ vectors.T


def concept_tokens(model: Model, concept: Concept, stream: str) -> torch.Tensor:
    """Return ``(n, d)``: the tokens of a concept's sentences that its contexts do not have.

    They begin where sentence and context differ first, and take the padding in, which a denoiser
    reads as it does words, and in which a text encoder goes on about the sentence. What comes
    before is in every kept sentence too, and says nothing of the concept.
    """
    rows = []
    for prompt, context in zip(concept.prompts, concept.contexts, strict=True):
        spans = zip(model.spans(prompt, stream), model.spans(context, stream), strict=True)
        for (own, *_), (without, *_) in spans:
            apart = (own - without).abs().amax(dim=1) > SAME * own.abs().max()
            rows.append(own[int(apart.int().argmax()) :])

    return torch.cat(rows)
