"""What a set of increments adds to a model's weights, one parameter after another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch

from multierase.increments.value import Delta, Factors, Increment
from multierase.separation.solves import Transfer

Transfers = Mapping[str, Mapping[str, Transfer]]
"""By concept, by stream."""


class Changes:
    """``Σ s_i Δ_i T_i`` of a set of concepts.

    A stream's readers share the factor that reads the text, in most files: what is done to that
    factor is done once.

    Args:
        active: by concept the increments to apply.
        strengths: by concept its ``s_i``.
        transfers: ``T_i``; the identity where there is none.
    """

    def __init__(
        self,
        active: Mapping[str, Increment],
        strengths: Mapping[str, float],
        transfers: Transfers,
    ):
        self.active, self.strengths, self.transfers = active, strengths, transfers
        self._stacked: dict[tuple, torch.Tensor] = {}

    def added(self, start: torch.Tensor, parameter: str) -> torch.Tensor:
        """Return ``start`` and the changes of this parameter, in float32; ``start`` stays.

        Factors are stacked and multiplied once, so that one pass over the weights suffices for any
        number of concepts.
        """
        factors: dict[str, Factors] = {}
        for concept, increment in self.active.items():
            delta = increment.deltas.get(parameter)
            if isinstance(delta, Factors):
                factors[concept] = delta
            elif delta is not None:
                start = start + self._moved(concept, parameter, delta).to(start.device)
        if not factors:
            return start

        down = self._downs(parameter, factors).to(start.device)
        up = torch.cat([delta.up for delta in factors.values()], dim=1).to(start.device)
        return torch.addmm(start, up, down)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter that is changed, sorted by name."""
        found: dict[str, tuple[int, ...]] = {}
        for increment in self.active.values():
            found |= increment.shapes

        return dict(sorted(found.items()))

    def delta(self, parameter: str) -> Delta:
        """Return ``Σ s_i Δ_i T_i`` of one parameter: factors where all are, else a dense tensor."""
        found = {name: increment.deltas.get(parameter) for name, increment in self.active.items()}
        factors = {name: delta for name, delta in found.items() if isinstance(delta, Factors)}
        if any(delta is not None and name not in factors for name, delta in found.items()):
            return self.added(torch.zeros(self.shapes[parameter]), parameter)

        up = torch.cat([delta.up for delta in factors.values()], dim=1)
        return Factors(up, self._downs(parameter, factors))

    @cached_property
    def readers(self) -> dict[str, str]:
        """The changed parameters that read one stream alone, sorted, with the stream."""
        found: dict[str, str] = {}
        for increment in self.active.values():
            found |= increment.readers

        return dict(sorted(found.items()))

    def movement(self, stream: str) -> torch.Tensor:
        """Return ``ΔWᵀ ΔW`` ``(d, d)`` float64, summed over the parameters that read a stream."""
        ups: dict[int, torch.Tensor] = {}
        downs: dict[int, torch.Tensor] = {}
        whole = torch.zeros((), dtype=torch.float64)
        for parameter in (name for name, read in self.readers.items() if read == stream):
            delta = self.delta(parameter)
            if not isinstance(delta, Factors):
                added = delta.double()
                whole = whole + added.T @ added
                continue

            # Most layers share the factor that reads the text: what is small is summed.
            key, up = id(delta.down), delta.up.double()
            ups[key] = ups.get(key, 0) + up.T @ up
            if key not in downs:
                downs[key] = delta.down.double()

        return whole + sum(downs[key].T @ ups[key] @ downs[key] for key in ups)

    def _downs(self, parameter: str, factors: Mapping[str, Factors]) -> torch.Tensor:
        """Return the stacked ``s_i down_i T_i``."""
        ids = [(concept, id(delta.down)) for concept, delta in factors.items()]
        key = (self.readers.get(parameter), *ids)
        if key not in self._stacked:
            rows = [
                self._moved(concept, parameter, delta.down) for concept, delta in factors.items()
            ]
            self._stacked[key] = torch.cat(rows)

        return self._stacked[key]

    def _moved(self, concept: str, parameter: str, rows: torch.Tensor) -> torch.Tensor:
        stream = self.active[concept].readers.get(parameter, "")
        through = self.transfers.get(concept, {}).get(stream)

        return self.strengths[concept] * (through(rows) if through else rows)
