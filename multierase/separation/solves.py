"""How increments that were trained apart are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch

from multierase.separation.directions import TINY, covariance

WORST = 0.5  # weight of what moves most, beside all that is kept

Transfer = Callable[[torch.Tensor], torch.Tensor]
"""``Δ -> Δ T``, row by row, of ``(n, d)`` float32."""


class JointSolve:
    """Solves for ``T_i`` ``(d, d)`` with which ``Σ_i s_i Δ_i T_i`` comes closest to each ``Δ_i``.

    Each increment is to move its own concept's tokens as it does alone, and all of them together
    are to do little to the kept ones. The minimum of ``Σ_i w_i ‖ΔW E_i − s_i Δ_i E_i‖² + κ n ‖ΔW
    E_kept‖² + λ ‖ΔW‖²`` is ``ΔW = Σ_i w_i s_i Δ_i C_i M⁻¹`` with ``M = Σ_i w_i C_i + κ n C_kept +
    λ``: one ``(d, d)`` factorisation for all layers of a stream, whatever the strengths.

    The kept side grows with the number ``n`` of erased concepts; with a fixed weight, forty of them
    outweigh it. The ridge stands for what no list names: without it an unlisted word is treated
    like the nearest listed one.

    Args:
        own: by erased concept ``F`` ``(d, r)``, with ``F Fᵀ`` the Gram matrix of its tokens.
        kept: Gram matrices ``(d, d)`` of what is kept; each list weighs the same.
        keep_weight: ``κ``, weight of the kept side beside all erased concepts together.
        ridge: ``λ``, in units of the tokens' mean variance.
    """

    def __init__(
        self,
        own: Mapping[str, torch.Tensor],
        kept: Iterable[torch.Tensor],
        *,
        keep_weight: float,
        ridge: float,
    ):
        self.ridge, self._kept_weight = ridge, keep_weight * len(own)
        self._factors = {name: _in_units(factor) for name, factor in own.items()}
        lists = [covariance(matrix) for matrix in kept]
        self._kept = self._kept_weight * sum(lists) / len(lists) if lists else None

    def transfers(
        self, *, worst: torch.Tensor | None = None, weights: Mapping[str, float] | None = None
    ) -> dict[str, Transfer]:
        """Return ``T_i`` by erased concept.

        What a first solution moves most may be named once more. It weighs half as much as all lists
        together: least squares give a few sentences up for the many.

        Args:
            worst: Gram matrix ``(d, d)`` of what is kept and moves most otherwise.
            weights: ``w_i`` by erased concept; 1 by default.

        Raises:
            ValueError: for a singular system.
        """
        factors = self._factors
        if weights is not None:
            factors = {name: factor * weights[name] ** 0.5 for name, factor in factors.items()}
        every = torch.cat(list(factors.values()), dim=1)
        total = every @ every.T + self.ridge * torch.eye(len(every), dtype=torch.float64)
        if self._kept is not None:
            total = total + self._kept
        if worst is not None:
            total = total + self._kept_weight * WORST * covariance(worst)

        # Positive definite unless the ridge is 0 and the lists do not span the space.
        cholesky, failed = torch.linalg.cholesky_ex(total)
        if failed:
            raise ValueError(
                f"the joint solve is singular with ridge {self.ridge}: give a larger one, such as "
                "1e-2"
            )

        # C_i M⁻¹ = F (M⁻¹ F)ᵀ has as many columns as the concept has tokens, not as dimensions.
        solved = torch.cholesky_solve(every, cholesky).T.float()
        rows = solved.split([factor.shape[1] for factor in factors.values()])
        return {
            name: _through(factor.float(), right)
            for (name, factor), right in zip(factors.items(), rows, strict=True)
        }


def _in_units(factor: torch.Tensor) -> torch.Tensor:
    """Return the factor ``(d, r)`` of a Gram matrix in units of its mean variance."""
    factor = factor.double()

    return factor * (len(factor) / factor.square().sum().clamp_min(TINY)).sqrt()


def _through(left: torch.Tensor, right: torch.Tensor) -> Transfer:
    return lambda rows: (rows @ left) @ right
