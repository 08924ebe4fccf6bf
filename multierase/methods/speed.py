"""SPEED (arXiv 2503.07392): edit attention's values where nothing that is kept lies."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, closed
from multierase.methods.closed import Edit
from multierase.models.model import Model

# The defaults of the authors' code, which are those for styles.
THRESHOLD = 0.1  # of the mean Gram matrix's singular values: below it nothing is kept
SCALE = 1.0  # of the regularisation
COPIES = 10  # of each kept word, augmented
CENTRES = 3  # of the empty prompt's tokens
LLOYD = 100  # steps at most

SETTINGS = {"threshold": THRESHOLD, "scale": SCALE, "copies": COPIES, "centres": CENTRES}


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Edit the values for each concept alone, in the null space of what is kept."""
    return closed.produce(model, order, "speed", solve, SETTINGS, draws=True)


def solve(edit: Edit) -> dict[str, torch.Tensor]:
    """Return ``Δ = W (C* C₁ᵀ − C₁C₁ᵀ) P (1 − M C₂ (C₂ᵀPMC₂)⁻¹ C₂ᵀP) M``, for each value layer.

    ``C₁`` are the last words of the concept's sentences, ``C*`` those of the contexts, both in the
    mean; ``M = (C₁C₁ᵀP + s)⁻¹``; ``P`` projects on the null space of the kept prompts' last words,
    of those that the layer's edit would move most; ``C₂`` are the empty prompt's first token and
    the centres of its others, which stay exactly as they are. Without a kept prompt, the empty one
    is kept.
    """
    generator = torch.Generator().manual_seed(edit.seed)
    deltas = {}
    for stream in edit.model.streams:
        old, new = edit.words(stream)
        gram, move = old.T @ old / len(old), (new - old).T @ old / len(old)
        empty, kept = edit.empty(stream), edit.kept_words(stream)
        kept = kept if len(kept) else empty
        invariant = _invariant(empty)

        identity = torch.eye(len(gram), dtype=torch.float64)
        unbound = move @ torch.linalg.inv(identity + gram)
        for name in (name for name, own in edit.values.items() if own == stream):
            weight = edit.weight(name)
            free = _null_space(_refined(kept, weight, weight @ unbound, generator))
            deltas[name] = weight @ _edit(gram, move, free, invariant)

    return deltas


def _edit(
    gram: torch.Tensor, move: torch.Tensor, free: torch.Tensor, invariant: torch.Tensor
) -> torch.Tensor:
    """Return ``Δ`` of a layer that passes on what it reads, ``W = 1``; all ``(d, d)`` but ``C₂``.

    Args:
        gram: ``C₁C₁ᵀ``.
        move: ``C* C₁ᵀ − C₁C₁ᵀ``.
        free: ``P``.
        invariant: ``C₂`` ``(n, d)``.
    """
    identity = torch.eye(len(gram), dtype=torch.float64)
    inner = torch.linalg.inv(gram @ free + SCALE * identity)
    held = invariant @ free
    # Tokens of the kept words' own span need no second constraint: their rows are zero.
    solved = torch.linalg.pinv(held @ inner @ invariant.T, rtol=1e-9)

    return move @ free @ (identity - inner @ invariant.T @ solved @ held) @ inner


def _refined(
    kept: torch.Tensor, weight: torch.Tensor, moved: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return the kept words ``(m, d)`` that an edit moves by more than the mean, augmented.

    The influence-based filter, and the augmentation along the direction that a layer hears least.
    """
    chosen = _above_mean(kept, moved)
    _, _, rows = torch.linalg.svd(weight, full_matrices=False)
    least = rows[-1:]
    copies = chosen.repeat(COPIES, 1)
    noise = torch.randn(copies.shape, generator=generator, dtype=torch.float64)
    augmented = _above_mean(copies + noise @ least.T @ least, moved)

    return torch.cat([chosen, augmented])


def _above_mean(tokens: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Return those of ``(m, d)`` tokens that move by at least the mean."""
    norms = (tokens @ moved.T).norm(dim=1)

    return tokens[norms >= norms.mean()]


def _null_space(tokens: torch.Tensor) -> torch.Tensor:
    """Return ``P`` ``(d, d)``: the directions in which ``(m, d)`` tokens hardly extend."""
    squares, vectors = torch.linalg.eigh(tokens.T @ tokens / len(tokens))
    free = vectors[:, squares < THRESHOLD]

    return free @ free.T


def _invariant(empty: torch.Tensor) -> torch.Tensor:
    """Return the first of ``(l, d)`` tokens and the others' centres, by Lloyd's algorithm.

    It starts from tokens that are far from one another, so that nothing is drawn.
    """
    first, others = empty[:1], empty[1:]
    if len(others) <= CENTRES:
        return empty

    centres = others[:1]
    while len(centres) < CENTRES:
        farthest = torch.cdist(others, centres).amin(dim=1).argmax()
        centres = torch.cat([centres, others[farthest][None]])

    for _ in range(LLOYD):
        nearest = torch.cdist(others, centres).argmin(dim=1)
        found = torch.stack([others[nearest == index].mean(0) for index in nearest.unique()])
        if found.shape == centres.shape and torch.equal(found, centres):
            break
        centres = found

    return torch.cat([first, centres])
