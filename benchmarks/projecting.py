"""The solve ``project``, beaten in our own tables: what others say is cut out of each increment.

``benchmarks/subsets.py``, ``capacity.py`` and ``solve_settings.py`` set it beside the joint solve,
which does better everywhere, so the package does not have it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch

from multierase import Increment, KeepList, Model
from multierase.evaluation.erasers import replaced
from multierase.separation.changes import Changes
from multierase.separation.directions import TINY, covariance, gram
from multierase.separation.solves import Transfer


def projecting_transfers(
    own: Mapping[str, torch.Tensor], kept: Iterable[torch.Tensor], *, tolerance: float
) -> dict[str, Transfer]:
    """Return ``T_i = I − Π_i``: what the kept and the other erased concepts say is cut out.

    ``Π_i`` projects on the directions in which those tokens' root mean square is more than
    ``tolerance`` of the largest. Unlike the joint solve it knows only all or nothing: a rich list
    leaves little of an increment.

    Args:
        own: by erased concept ``F`` ``(d, r)``, with ``F Fᵀ`` the Gram matrix of its tokens.
        kept: Gram matrices ``(d, d)`` of what is kept; each list weighs the same.
    """
    each = {}
    for name, factor in own.items():
        scaled = factor.double()
        scaled = scaled * (len(scaled) / scaled.square().sum().clamp_min(TINY)).sqrt()
        each[name] = scaled @ scaled.T
    everything = sum([covariance(matrix) for matrix in kept], sum(each.values()))

    transfers = {}
    for name, matrix in each.items():
        squares, vectors = torch.linalg.eigh(everything - matrix)
        taken = vectors[:, squares > max(tolerance**2 * squares[-1].item(), 0)].float()
        transfers[name] = _without(taken)
    return transfers


def _without(taken: torch.Tensor) -> Transfer:
    return lambda rows: rows - (rows @ taken) @ taken.T


class Projecting:
    """Erases concepts by their increments, put together by this solve.

    Args:
        increments: from concept name to increment; those that are not erased are kept.
        keep: prompts to keep.
    """

    def __init__(
        self,
        model: Model,
        increments: Mapping[str, Increment],
        *,
        keep: KeepList,
        tolerance: float = 0.1,
    ):
        self.model, self.increments, self.keep = model, increments, keep
        self.tolerance = tolerance

    @contextlib.contextmanager
    def erasing(self, *concepts: str) -> Iterator[None]:
        """Erase concepts for a ``with`` block."""
        active = {name: self.increments[name] for name in sorted(concepts)}
        changes = Changes(active, dict.fromkeys(active, 1.0), self._transfers(active))
        touched = sorted({name for increment in active.values() for name in increment.deltas})
        parameters = self.model.parameters()

        values = {}
        for name in touched:
            weight = parameters[name].detach()
            values[name] = changes.added(weight.float(), name).to(weight.dtype)
        with replaced(parameters, values):
            yield

    def _transfers(self, active: Mapping[str, Increment]) -> dict[str, dict[str, Transfer]]:
        transfers: dict[str, dict[str, Transfer]] = {name: {} for name in active}
        if not active:
            return transfers

        for stream in self.model.streams:
            own = {name: increment.grams[stream] for name, increment in active.items()}
            others = [
                self.increments[name].grams[stream]
                for name in self.increments
                if name not in active
            ]
            kept = [gram(torch.cat(others, dim=1).T)] if others else []
            kept.append(self.keep.gram(stream, active))

            solved = projecting_transfers(own, kept, tolerance=self.tolerance)
            for name, transfer in solved.items():
                transfers[name][stream] = transfer
        return transfers
