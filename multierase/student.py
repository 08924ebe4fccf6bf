"""The student: the base's own U-Net, with other values for the weights of a scope."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multierase.base import Base
from multierase.increments import Factors, reads_text, touched_parameters


class Student:
    """The base with float32 increments on the weights of a scope: variables, and the weights they give.

    Args:
        base: the frozen model; there is no second U-Net.
        scope: which weights: see ``multierase.increments.SCOPES``.
        basis: ``B`` ``(d, r)``; keys and values then change by ``A Bᵀ`` alone, with ``A`` to train. ``None`` trains
            them freely. Other weights of the scope always train freely.
    """

    def __init__(self, base: Base, scope: str, basis: torch.Tensor | None):
        parameters = dict(base.unet.named_parameters())
        self.frozen = {name: parameters[name] for name in touched_parameters(base.unet, scope)}
        self.variables, self.down = {}, {}
        for name, weight in self.frozen.items():
            shape = weight.shape
            if basis is not None and reads_text(name):
                self.down[name] = basis.T.to(base.device)
                shape = (weight.shape[0], basis.shape[1])
            self.variables[name] = torch.zeros(shape, device=base.device, requires_grad=True)

    def delta(self, name: str) -> torch.Tensor:
        return self.variables[name] @ self.down[name] if name in self.down else self.variables[name]

    def deltas(self) -> dict[str, torch.Tensor | Factors]:
        detached = {name: variable.detach().cpu().clone() for name, variable in self.variables.items()}
        return {
            name: Factors(value, self.down[name].cpu().clone()) if name in self.down else value
            for name, value in detached.items()
        }


def together(students: Sequence[Student]) -> dict[str, torch.Tensor]:
    """``cast(W0 + Σ Δ_i)`` of one scope, differentiable in the students' variables: summed in float32, because a small
    step on a bfloat16 weight rounds to nothing."""
    first = students[0]
    return {
        name: sum((student.delta(name) for student in students), weight.float()).to(weight.dtype)
        for name, weight in first.frozen.items()
    }
