"""RECE (arXiv 2407.12383): erase a concept, and then what still calls it up, in closed form."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, closed
from multierase.methods.closed import Edit
from multierase.models.model import Model

# The paper's for artistic styles, as its repository lists them.
ROUNDS = 1
REGULARISER = 1e-3  # λ of eq. 9, of what still calls the concept up
RIDGE = 0.1  # λ₂ of eq. 3
PRESERVE = 0.1  # λ₁ of eq. 3, for each kept token

SETTINGS = {"rounds": ROUNDS, "regulariser": REGULARISER, "ridge": RIDGE, "preserve": PRESERVE}


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Alternate UCE with the search for the tokens that it has missed."""
    return closed.produce(model, order, "rece", solve, SETTINGS)


def solve(edit: Edit) -> dict[str, torch.Tensor]:
    """Return ``W_new − W`` of every parameter that reads the text alone.

    Each round finds in closed form ``c'``, which says to the edited weights what ``c`` says to the
    base's, ``c' = (Σ W_newᵀ W_new + λ)⁻¹ (Σ W_newᵀ W) c`` summed over all readers of a stream, and
    edits it as UCE edits ``c``, towards the same tokens. The tokens are those of ``uce``, from the
    last word on, where the authors' code takes whole prompts.
    """
    transfers = {}
    for stream in edit.model.streams:
        weights = [edit.weight(name) for name, own in edit.readers.items() if own == stream]
        gram = torch.stack([weight.T @ weight for weight in weights]).sum(0)
        old, new = edit.tokens(stream)
        kept = edit.kept_tokens(stream)

        transfer = _step(old, new, kept)
        for _ in range(ROUNDS):
            missed = old @ _adversary(transfer, gram).T
            transfer = transfer @ _step(missed, new, kept)
        transfers[stream] = transfer

    deltas = {}
    for name, stream in edit.readers.items():
        weight = edit.weight(name)
        deltas[name] = weight @ transfers[stream] - weight

    return deltas


def _step(old: torch.Tensor, new: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return ``T`` ``(d, d)`` of one edit of ``(n, d)`` tokens, ``W ← W T`` (eq. 3)."""
    preserved = RIDGE * torch.eye(old.shape[1], dtype=torch.float64) + PRESERVE * kept.T @ kept

    return torch.linalg.solve(preserved + old.T @ old, preserved + old.T @ new).T


def _adversary(transfer: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Return ``A`` ``(d, d)`` with ``c' = A c``, for ``W_new = W T`` and ``Σ WᵀW`` (eq. 9)."""
    ridge = REGULARISER * torch.eye(len(gram), dtype=torch.float64)

    return torch.linalg.solve(transfer.T @ gram @ transfer + ridge, transfer.T @ gram)
