"""What a set of increments adds to a model's weights, one parameter after another."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from multierase.increments.value import Factors, Increment
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

    def movement(self, stream: str) -> torch.Tensor:
        """Return ``ΔWᵀ ΔW`` ``(d, d)`` float64, summed over the parameters that read a stream."""
        grams: dict[tuple, torch.Tensor] = {}
        downs: dict[tuple, torch.Tensor] = {}
        whole = torch.zeros((), dtype=torch.float64)
        for parameter in self._reading(stream):
            deltas = {
                concept: increment.deltas[parameter]
                for concept, increment in self.active.items()
                if parameter in increment.deltas
            }
            factors = {name: delta for name, delta in deltas.items() if isinstance(delta, Factors)}
            if len(factors) < len(deltas):
                shape = next(iter(deltas.values())).shape
                added = self.added(torch.zeros(shape), parameter).double()
                whole = whole + added.T @ added
                continue

            # Most layers share the factor that reads the text: what is small is summed.
            key = tuple((concept, id(delta.down)) for concept, delta in factors.items())
            up = torch.cat([delta.up for delta in factors.values()], dim=1).double()
            grams[key] = grams.get(key, 0) + up.T @ up
            downs[key] = self._downs(parameter, factors).double()

        return whole + sum(downs[key].T @ grams[key] @ downs[key] for key in grams)

    def _reading(self, stream: str) -> list[str]:
        """Return the changed parameters that read a stream, sorted."""
        return sorted(
            {
                parameter
                for increment in self.active.values()
                for parameter, read in increment.readers.items()
                if read == stream and parameter in increment.deltas
            }
        )

    def _downs(self, parameter: str, factors: Mapping[str, Factors]) -> torch.Tensor:
        """Return the stacked ``s_i down_i T_i``."""
        ids = [(concept, id(delta.down)) for concept, delta in factors.items()]
        key = (self._stream(parameter), *ids)
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

    def _stream(self, parameter: str) -> str | None:
        for increment in self.active.values():
            if parameter in increment.readers:
                return increment.readers[parameter]

        return None
