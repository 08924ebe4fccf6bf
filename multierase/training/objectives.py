"""The objectives of an erasure, as functions of predictions: tensors in, tensors out.

Symbols: ``eps_concept``, ``eps_null``, ``eps_anchor`` are the frozen base's predictions
``ε*(x_t, c)``, ``ε*(x_t, ∅)``, ``ε*(x_t, a)``; ``eps_student`` is the erased model's
``ε_θ(x_t, c)``. All are ``(b, c, h, w)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from einops import reduce


def esd_target(
    eps_anchor: torch.Tensor, eps_concept: torch.Tensor, eps_null: torch.Tensor, eta: float
) -> torch.Tensor:
    """Return ``ε*(x_t, a) − η [ε*(x_t, c) − ε*(x_t, ∅)]`` (ESD, arXiv 2303.07345, eq. 7)."""
    return eps_anchor - eta * (eps_concept - eps_null)


def concept_correlation(
    eps_student: torch.Tensor,
    eps_student_null: torch.Tensor,
    eps_concept: torch.Tensor,
    eps_null: torch.Tensor,
) -> torch.Tensor:
    """Return ``mean [(ε_θ(c) − ε_θ(∅)) ⊙ (ε*(c) − ε*(∅))]`` (SepME, arXiv 2402.05947, eq. 28).

    A scalar, in squared units of ``ε``. Minimising it takes away what the base's concept direction
    carries and nothing else. It is unbounded below.
    """
    student = eps_student.float() - eps_student_null.float()
    frozen = eps_concept.float() - eps_null.float()

    return reduce(student * frozen, "b c h w -> ", "mean")


def erasure_degree(
    eps_student: torch.Tensor, eps_concept: torch.Tensor, eps_null: torch.Tensor
) -> torch.Tensor:
    """Return ``ρ = ⟨ε_θ(c) − ε*(∅), ε*(c) − ε*(∅)⟩ / ‖ε*(c) − ε*(∅)‖²`` over the whole batch.

    A scalar without unit: 1 on the base, 0 when the prompt says nothing about the concept any more,
    ``−η`` at ESD's full target.
    """
    direction = eps_concept.float() - eps_null.float()
    change = eps_student.float() - eps_null.float()
    size = direction.square().sum().clamp_min(torch.finfo(torch.float32).tiny)

    return (change * direction).sum() / size


def squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of ``(b, c, h, w)`` in float32: a scalar."""
    return reduce((prediction.float() - target.float()).square(), "b c h w -> ", "mean")


def l1_norm(deltas: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return ``Σ_l ‖Δ_l‖₁ / L`` over ``L`` tensors (SepME, arXiv 2402.05947)."""
    norms = [delta.abs().sum() for delta in deltas]

    return torch.stack(norms).mean()


def l2_norm(deltas: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return ``Σ_l ‖Δ_l‖₂² / L`` over ``L`` tensors."""
    norms = [delta.square().sum() for delta in deltas]

    return torch.stack(norms).mean()


REGULARIZERS: dict[str, Callable[[Iterable[torch.Tensor]], torch.Tensor]] = {
    "l1": l1_norm,
    "l2": l2_norm,
}
