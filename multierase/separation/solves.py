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
        self._lefts = {name: factor.float() for name, factor in self._factors.items()}
        self._every = torch.cat(list(self._factors.values()), dim=1)
        self._rest = ridge * torch.eye(len(self._every), dtype=torch.float64)
        lists = [covariance(matrix) for matrix in kept]
        if lists:
            self._rest = self._rest + self._kept_weight * sum(lists) / len(lists)

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
        ranks = [factor.shape[1] for factor in self._factors.values()]
        own = [1.0 if weights is None else weights[name] for name in self._factors]
        scales = torch.tensor(own, dtype=torch.float64).repeat_interleave(torch.tensor(ranks))
        weighted = self._every * scales
        total = weighted @ self._every.T + self._rest
        if worst is not None:
            total = total + self._kept_weight * WORST * covariance(worst)

        # Positive definite unless the ridge is 0 and the lists do not span the space.
        cholesky, failed = torch.linalg.cholesky_ex(total)
        if failed:
            raise ValueError(
                f"the joint solve is singular with ridge {self.ridge}: give a larger one, such as "
                "1e-2"
            )

        # w_i C_i M⁻¹ = F (w_i M⁻¹ F)ᵀ has as many columns as the concept has tokens.
        rights = (torch.cholesky_inverse(cholesky) @ weighted).T.float().split(ranks)
        return {
            name: _through(left, right)
            for (name, left), right in zip(self._lefts.items(), rights, strict=True)
        }


def _in_units(factor: torch.Tensor) -> torch.Tensor:
    """Return the factor ``(d, r)`` of a Gram matrix in units of its mean variance."""
    factor = factor.double()

    return factor * (len(factor) / factor.square().sum().clamp_min(TINY)).sqrt()


def _through(left: torch.Tensor, right: torch.Tensor) -> Transfer:
    return lambda rows: (rows @ left) @ right
