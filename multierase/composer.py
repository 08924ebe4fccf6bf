"""The composer: which concepts are off now, and the weights that say so."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from diffusers import UNet2DConditionModel

from multierase.increments import Increment, suggest
from multierase.library import UnknownConcept, require_fits


class Composer:
    """Erases and restores concepts on a U-Net, in any order, exactly.

    The state is a set ``{concept: strength}``, never a history. Touched weights are rebuilt as
    ``cast(W0 + Σ s_i Δ_i)``, summed in float32 in the order of the concepts' names from a pristine copy of ``W0``, and
    cast once. So the order of calls cannot matter, taking everything off gives the base back bit for bit, and taking
    one off gives bit for bit what never putting it on would have given. Only parameters that a changed concept
    touches are rebuilt.

    Args:
        unet: any ``UNet2DConditionModel``, in float32, float16 or bfloat16; it is changed in place.
        increments: from concept name to increment, such as a ``Library``.

    Not for use from several threads at once.
    """

    def __init__(self, unet: UNet2DConditionModel, increments: Mapping[str, Increment]):
        self.unet, self.increments = unet, increments
        self._parameters = dict(unet.named_parameters())
        self._pristine: dict[str, torch.Tensor] = {}
        self._checked: dict[str, Increment] = {}
        self._off: dict[str, float] = {}

    @property
    def off(self) -> Mapping[str, float]:
        """The concepts that are erased now, with their strengths."""
        return MappingProxyType(dict(sorted(self._off.items())))

    def erase(self, *concepts: str, strength: float = 1.0) -> None:
        """Erase more concepts, or give erased ones another strength."""
        self.set({**self._off, **dict.fromkeys(concepts, strength)})

    def restore(self, *concepts: str) -> None:
        """Give erased concepts back. Raises ``ValueError`` for one that is not erased."""
        wrong = sorted(set(concepts) - self._off.keys())
        if wrong:
            raise ValueError(f"cannot restore {wrong}: not erased; erased now: {sorted(self._off)}")
        self.set({name: strength for name, strength in self._off.items() if name not in concepts})

    def restore_all(self) -> None:
        """The base, bit for bit."""
        self.set({})

    def set(self, off: Mapping[str, float]) -> None:
        """Erase exactly these concepts at these strengths; a strength of 0 is the same as leaving the concept out.

        All is checked before any weight changes.

        Raises:
            UnknownConcept: for a concept without an increment.
            ValueError: for a strength that is not finite, or an increment of another base.
        """
        wrong = {name: strength for name, strength in off.items() if not math.isfinite(strength)}
        if wrong:
            raise ValueError(f"strengths must be finite numbers, given {wrong}")
        wanted = {name: float(strength) for name, strength in off.items() if strength != 0}
        changed = {name for name in wanted.keys() | self._off.keys() if wanted.get(name) != self._off.get(name)}
        active = {name: self._increment(name) for name in sorted(wanted)}
        leaving = {name: self._checked[name] for name in changed if name in self._checked}
        touched = {parameter for name in changed for parameter in (active.get(name) or leaving[name]).deltas}
        with torch.no_grad():
            for parameter in sorted(touched):
                self._rebuild(parameter, active, wanted)
        self._off = wanted

    @contextlib.contextmanager
    def erased(self, *concepts: str, strength: float = 1.0) -> Iterator[Composer]:
        """Erase more concepts for the length of a ``with`` block; the state before it comes back, whatever happens."""
        before = dict(self._off)
        try:
            self.erase(*concepts, strength=strength)
            yield self
        finally:
            self.set(before)

    def _increment(self, name: str) -> Increment:
        if name not in self._checked:
            if name not in self.increments:
                here = sorted(self.increments)
                raise UnknownConcept(f"no increment for {name!r}{suggest(name, here)}; there are {here}")
            increment = self.increments[name]
            require_fits(increment, {**self._parameters, **self._pristine})
            self._checked[name] = increment
        return self._checked[name]

    def _rebuild(self, name: str, active: Mapping[str, Increment], strengths: Mapping[str, float]) -> None:
        parameter = self._parameters[name]
        pristine = self._pristine.setdefault(name, parameter.detach().clone())
        parts = [(concept, inc) for concept, inc in active.items() if name in inc.deltas]
        if not parts:
            parameter.copy_(pristine)
            return
        total = pristine.float()  # a new tensor, or the pristine one itself in float32: never changed in place
        for concept, increment in parts:
            total = total + strengths[concept] * increment.dense(name).to(total.device)
        parameter.copy_(total)
