"""MACE's closed-form refinement (arXiv 2403.06135): the words around a concept forget it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, closed
from multierase.methods.closed import Edit
from multierase.models.model import Model
from multierase.separation.directions import NUMERICAL_RANK

PRIOR = 0.8  # of each kept token: 1e-4 of the prior times 8e3 of the domain's, for one celebrity

SETTINGS = {"prior": PRIOR}


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Refine the weights for each concept alone.

    It is the first of the method's three steps. The LoRA, which lowers the attention to the
    concept's own words in pictures that a segmenter has masked, and the fusion of several are not
    here: so the words themselves stay.
    """
    return closed.produce(model, order, "mace", solve, SETTINGS)


def solve(edit: Edit) -> dict[str, torch.Tensor]:
    """Return ``W' − W`` of every parameter that reads the text alone (eq. 3, with ``λ = 0``).

    ``W' = (Σ W g cᵀ + μ Σ W p pᵀ)(Σ c cᵀ + μ Σ p pᵀ)⁻¹`` with ``c`` the tokens of the sentences
    that are not the concept's own words, but know of them: end and padding; ``g`` those of the
    sentences without it, and ``p`` the tokens of the kept sentences. Words that follow a concept
    within its sentence are not among ``c``. Where the tokens do not span everything, the smallest
    such ``W' − W`` is taken.
    """
    transfers = {}
    for stream in edit.model.streams:
        old, new = edit.behind(stream)
        kept = edit.kept_tokens(stream)
        seen = old.T @ old + PRIOR * kept.T @ kept
        inverse = torch.linalg.pinv(seen, rtol=NUMERICAL_RANK**2, hermitian=True)
        transfers[stream] = (new - old).T @ old @ inverse

    return {name: edit.weight(name) @ transfers[stream] for name, stream in edit.readers.items()}
