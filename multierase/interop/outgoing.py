"""A composed set of increments on its way into a file of another tool's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from multierase.increments.compression import squared_distance
from multierase.increments.value import Delta, Factors, dense, squared_norm
from multierase.models.model import Model
from multierase.separation.directions import TINY

NUMERICAL_RANK = 1e-6  # of the largest singular value; below it a direction is float32's rounding


@dataclass(frozen=True)
class Outgoing:
    """What a composed set adds to a base's weights, exactly and as a file states it.

    Args:
        model: the base.
        erased: by concept its strength.
        exact: by parameter ``ΔW``, float32.
        stored: the same as the file has it, after it was cut and rounded, in float32; a parameter
            that the format cannot hold is not there.
        precision: dtype of the file's numbers.
        about: JSON values for whoever reads the file: base, solve, concepts, error, certificate.
        picture: a PNG of the base beside what the file makes of it, if one was made.
    """

    model: Model
    erased: Mapping[str, float]
    exact: Mapping[str, Delta]
    stored: Mapping[str, Delta]
    precision: str = "float32"
    about: Mapping[str, Any] = field(default_factory=dict)
    picture: bytes | None = None

    def cut(self, rank: int | None, precision: str) -> Outgoing:
        """Return the same as low-rank factors; vectors, which have no rank, are left out.

        Args:
            rank: at most; by default as many as the numbers have.
        """
        stored: dict[str, Delta] = {}
        for name, delta in self.exact.items():
            if len(delta.shape) > 1:
                factors = low_rank(delta, rank)
                stored[name] = Factors(*(rounded(f, precision) for f in (factors.up, factors.down)))

        return replace(self, stored=stored, precision=precision)

    def whole(self, precision: str) -> Outgoing:
        """Return the same as dense tensors."""
        stored: dict[str, Delta] = {}
        for name, delta in self.exact.items():
            stored[name] = rounded(dense(delta), precision)

        return replace(self, stored=stored, precision=precision)

    @property
    def dtype(self) -> torch.dtype:
        """The file's precision."""
        return getattr(torch, self.precision)

    @property
    def left_out(self) -> list[str]:
        """The parameters that the file does not hold."""
        return sorted(self.exact.keys() - self.stored.keys())

    @property
    def error(self) -> float:
        """The share of ``‖ΔW‖`` that is lost."""
        lost = total = 0.0
        for name, delta in self.exact.items():
            size = squared_norm(delta)
            total += size
            if name in self.stored:
                size = squared_distance(_matrix(delta), _matrix(self.stored[name]))
            lost += size

        return math.sqrt(lost / total) if total else 0.0

    @property
    def factors(self) -> dict[str, Factors]:
        """Those of ``stored`` that are low-rank."""
        return {name: delta for name, delta in self.stored.items() if isinstance(delta, Factors)}

    @property
    def ranks(self) -> dict[str, int]:
        """By parameter the rank of its factors."""
        return {name: delta.up.shape[1] for name, delta in self.factors.items()}


def low_rank(delta: Delta, rank: int | None = None) -> Factors:
    """Return the best factors of at most ``rank``, equally long; of a convolution's ``(out, in)``.

    Factors are cut by their own small matrices: what they multiply to is never made.
    """
    if isinstance(delta, Factors):
        left, right = torch.linalg.qr(delta.up.double()), torch.linalg.qr(delta.down.double().T)
        inner, sizes, outer = torch.linalg.svd(left.R @ right.R.T)
        up, down = left.Q @ inner, outer @ right.Q.T
    else:
        up, sizes, down = torch.linalg.svd(delta.double().flatten(1), full_matrices=False)

    most = int((sizes > NUMERICAL_RANK * sizes[0].clamp_min(TINY)).sum())
    kept = max(most if rank is None else min(rank, most), 1)
    root = sizes[:kept].sqrt()
    return Factors((up[:, :kept] * root).float(), (root[:, None] * down[:kept]).float())


def _matrix(delta: Delta) -> Delta:
    """Return a convolution's numbers as its factors have them."""
    return delta.flatten(1) if isinstance(delta, torch.Tensor) and delta.ndim > 2 else delta


def rounded(tensor: torch.Tensor, precision: str) -> torch.Tensor:
    """Return what is left of a tensor in a file's precision, in float32."""
    return tensor.to(getattr(torch, precision)).float()
