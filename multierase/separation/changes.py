"""What a set of increments adds to a model's weights, one parameter after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from multierase.increments.value import Delta, Factors, Increment
from multierase.separation.directions import gram
from multierase.separation.solves import Transfer

Transfers = Mapping[str, Mapping[str, Transfer]]
"""By concept, by stream."""


@dataclass
class Stack:
    """The increments of some parameters of one shared input: ``Δ_p = up_p @ down`` for each ``p``.

    A parameter's own rows do not count: of ``up_p`` its Gram matrix is all that is needed.

    Args:
        alone: by concept its own ``down_i`` ``(r_i, d)``, unmoved.
        down: all of them below one another, each ``s_i down_i T_i``: ``(r, d)`` float64.
        up_gram: ``Σ_p up_pᵀ up_p`` ``(r, r)`` float64.
    """

    alone: Mapping[str, torch.Tensor]
    down: torch.Tensor
    up_gram: torch.Tensor

    @cached_property
    def mixed(self) -> torch.Tensor:
        """``Σ_p ΔW_pᵀ up_p`` ``(d, r)``, with ``ΔW_p = up_p down`` all that changes ``p``."""
        return self.down.T @ self.up_gram

    @cached_property
    def whole(self) -> torch.Tensor:
        """``Σ_p ΔW_pᵀ ΔW_p`` ``(d, d)``."""
        return self.mixed @ self.down


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
        self._up_grams: dict[tuple, torch.Tensor] = {}

    def through(self, transfers: Transfers) -> Changes:
        """Return the same with other ``T_i``; what does not depend on them is computed once."""
        other = Changes(self.active, self.strengths, transfers)
        other._up_grams = self._up_grams

        return other

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
        return torch.addmm(start, _beside(factors).to(start.device), down)

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

        return Factors(_beside(factors), self._downs(parameter, factors))

    @cached_property
    def readers(self) -> dict[str, str]:
        """The changed parameters that read one stream alone, sorted, with the stream."""
        found: dict[str, str] = {}
        for increment in self.active.values():
            found |= increment.readers

        return dict(sorted(found.items()))

    def movement(self, stream: str) -> torch.Tensor:
        """Return ``ΔWᵀ ΔW`` ``(d, d)`` float64, summed over the parameters that read a stream."""
        stacks, dense = self.stacks(stream)
        whole = torch.zeros((), dtype=torch.float64)
        for parameter in dense:
            added = self.added(torch.zeros(self.shapes[parameter]), parameter).double()
            whole = whole + added.T @ added

        return whole + sum(stack.whole for stack in stacks)

    def stacks(self, stream: str) -> tuple[list[Stack], list[str]]:
        """Return the factors of what reads a stream, and the parameters that have none.

        Most layers share the factor that reads the text: what is small is summed over them.
        """
        groups: dict[tuple, dict[str, dict[str, Factors]]] = {}
        dense = []
        for parameter in (name for name, read in self.readers.items() if read == stream):
            deltas = {name: one.deltas.get(parameter) for name, one in self.active.items()}
            factors = {name: one for name, one in deltas.items() if isinstance(one, Factors)}
            if any(one is not None and name not in factors for name, one in deltas.items()):
                dense.append(parameter)
            else:
                groups.setdefault(self._shared(parameter, factors), {})[parameter] = factors

        return [self._stack(key, group) for key, group in groups.items()], dense

    def _stack(self, key: tuple, group: Mapping[str, Mapping[str, Factors]]) -> Stack:
        """Stack the increments of parameters that share a factor, given with theirs."""
        parameter, factors = next(iter(group.items()))
        if key not in self._up_grams:
            total = torch.zeros((), dtype=torch.float64)
            for each in group.values():  # one after another: all layers at once are gigabytes
                total = total + gram(_beside(each))
            self._up_grams[key] = total
        alone = {name: one.down for name, one in factors.items()}

        return Stack(alone, self._downs(parameter, factors).double(), self._up_grams[key])

    def _shared(self, parameter: str, factors: Mapping[str, Factors]) -> tuple:
        """Return what parameters have in common that share the factor that reads the text."""
        ids = [(concept, id(delta.down)) for concept, delta in factors.items()]

        return (self.readers.get(parameter), *ids)

    def _downs(self, parameter: str, factors: Mapping[str, Factors]) -> torch.Tensor:
        """Return the stacked ``s_i down_i T_i``."""
        key = self._shared(parameter, factors)
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


def _beside(factors: Mapping[str, Factors]) -> torch.Tensor:
    """Return all concepts' ``up_i`` beside one another."""
    return torch.cat([delta.up for delta in factors.values()], dim=1)
