"""The composer: which concepts are off now, and the weights that say so."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import torch
from diffusers import UNet2DConditionModel

from multierase.base import Fingerprint
from multierase.decoupling import KeepList, Transfer, gram, joint_transfers, projecting_transfers
from multierase.increments import Factors, Increment, reads_text, suggest, times
from multierase.library import UnknownConcept, require_fits

logger = logging.getLogger(__name__)

Solve = Literal["sum", "joint", "project"]


def wants_keep_list(solve: Solve | None, listed: bool) -> bool:
    """Is a keep-list worth making for this solve, or for the default one, where prompts are listed?"""
    return solve != "sum" and bool(solve or listed)


class Composer:
    """Erases and restores concepts on a U-Net, in any order, exactly.

    The state is a set ``{concept: strength}``, never a history. Touched weights are rebuilt as
    ``cast(W0 + Σ s_i Δ_i T_i)``, summed in float32 in the order of the concepts' names from a pristine copy of ``W0``,
    and cast once. So the order of calls cannot matter, taking everything off gives the base back bit for bit, and
    taking one off gives bit for bit what never putting it on would have given. Only parameters that a change of the
    set can move are rebuilt.

    How increments that were trained apart are put together is the ``solve``. ``sum``: as they are, every ``T_i`` the
    identity. ``joint``: keys and values are solved for at once, so that each concept's own tokens move as its
    increment moves them, and those of everything kept stay (``decoupling.joint_transfers``). ``project``: what the
    others say is cut out of each (``decoupling.projecting_transfers``). Kept are the increments that are not off and
    the keep-list. Weights other than keys and values do not read the text alone, so they are summed whatever the solve.

    Args:
        unet: any ``UNet2DConditionModel``, in float32, float16 or bfloat16; it is changed in place.
        increments: from concept name to increment, such as a ``Library``.
        solve: ``sum``, ``joint`` or ``project``; by default ``joint`` with a keep-list, and without one the ``sum``,
            which then keeps more.
        keep: prompts to keep, for ``joint`` and ``project``.
        keep_weight: of the kept side in ``joint``, beside all erased concepts together.
        ridge: of ``joint``, in units of the tokens' mean variance.
        tolerance: of ``project``.

    Raises:
        ValueError: for an unknown solve, or numbers out of range.

    Not for use from several threads at once.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        increments: Mapping[str, Increment],
        *,
        solve: Solve | None = None,
        keep: KeepList | None = None,
        keep_weight: float = 3.0,
        ridge: float = 3e-2,
        tolerance: float = 0.1,
    ):
        solve = solve or ("sum" if keep is None else "joint")
        if solve not in get_args(Solve):
            raise ValueError(f"unknown solve {solve!r}{suggest(solve, get_args(Solve))}; give one of {get_args(Solve)}")
        for name, value in (("keep_weight", keep_weight), ("ridge", ridge), ("tolerance", tolerance)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}, give 0 or more")
        self.unet, self.increments, self.solve, self.keep = unet, increments, solve, keep
        self.keep_weight, self.ridge, self.tolerance = keep_weight, ridge, tolerance
        self._parameters = dict(unet.named_parameters())
        self._pristine: dict[str, torch.Tensor] = {}
        self._checked: dict[str, Increment] = {}
        self._fingerprints: dict[str, Fingerprint] = {}  # of one parameter each: they take longer than composing
        self._off: dict[str, float] = {}
        self._passed_over: set[str] = set()
        self._everything: tuple[tuple[str, ...], torch.Tensor] | None = None  # names, Gram matrix of all their tokens

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
        if not changed:
            return
        transfers = self._transfers(active)
        # A solve depends on the whole set: one concept's coming or going moves what the others do.
        moving = {**active, **leaving} if self.solve != "sum" else {n: active.get(n) or leaving[n] for n in changed}
        touched = {parameter for increment in moving.values() for parameter in increment.deltas}
        changes = _Changes(active, wanted, transfers)
        with torch.no_grad():
            for parameter in sorted(touched):
                self._rebuild(parameter, changes)
        self._off = wanted

    def deviations(self) -> dict[str, float]:
        """Per erased concept ``‖(ΔW − s_i Δ_i) E_i‖ / ‖s_i Δ_i E_i‖`` over its keys and values: how far what is done to
        its own tokens now is from what its increment does alone. 0: the same; 1: as if it were not there. Increments
        without keys and values, or without a Gram matrix, have none."""
        active = {name: self._increment(name) for name in self.off}
        factors = {name: increment.gram for name, increment in active.items() if increment.gram is not None}
        changes = _Changes(active, self._off, self._transfers(active))
        off, alone = dict.fromkeys(factors, 0.0), dict.fromkeys(factors, 0.0)
        for parameter in sorted({p for increment in active.values() for p in filter(reads_text, increment.deltas)}):
            nothing = torch.zeros(self._parameters[parameter].shape)
            total = changes.added(nothing, parameter)
            for name, factor in factors.items():
                if (delta := active[name].deltas.get(parameter)) is not None:
                    own = self._off[name] * times(delta, factor)
                    off[name] += (total @ factor - own).double().square().sum().item()
                    alone[name] += own.double().square().sum().item()
        return {name: math.sqrt(off[name] / alone[name]) for name in factors if alone[name]}

    def crosstalk(self) -> dict[str, dict[str, float]]:
        """``X_ij = ‖Δ_i E_j‖ / ‖W0 E_j‖`` over keys and values, known before any picture is made: how much concept
        ``i``'s increment moves concept ``j``'s tokens. A column ``(kept)`` for what the keep-list says of anything but
        ``i``, if there is one."""
        increments = {name: self._increment(name) for name in sorted(self.increments)}
        factors = {name: self._own(increment).double() for name, increment in increments.items()}
        grams = {name: factor @ factor.T for name, factor in factors.items()}
        table = {}
        for name, increment in increments.items():
            parameters = sorted(filter(reads_text, increment.deltas))
            if not parameters:
                continue
            kept = {} if self.keep is None else {"(kept)": self.keep.gram([name])}
            frozen = [self._pristine.get(p, self._parameters[p]).detach().cpu() for p in parameters]
            delta, base = (
                sum(weight.T @ weight for weight in map(torch.Tensor.double, weights))
                for weights in ([increment.dense(parameter) for parameter in parameters], frozen)
            )
            # ‖Δ E‖² = ⟨Δᵀ Δ, E Eᵀ⟩
            table[name] = {
                j: math.sqrt(max((delta * gram).sum().item(), 0) / (base * gram).sum().item())
                for j, gram in {**grams, **kept}.items()
            }
        return table

    def _transfers(self, active: Mapping[str, Increment]) -> dict[str, Transfer]:
        """``T_i`` of each erased concept that touches keys and values; empty under ``sum``."""
        if self.solve == "sum":
            return {}
        own = {name: inc for name, inc in active.items() if any(map(reads_text, inc.deltas))}
        if not own:
            return {}
        factors = {name: self._own(increment) for name, increment in own.items()}
        lists = self._others(active)
        if self.keep is not None:
            lists.append(self.keep.gram(active))
        if self.solve == "project":
            return projecting_transfers(factors, lists, tolerance=self.tolerance)
        return joint_transfers(factors, lists, keep_weight=self.keep_weight, ridge=self.ridge)

    def _others(self, active: Mapping[str, Increment]) -> list[torch.Tensor]:
        """The Gram matrix of the tokens of all increments that are not off, if there are any. A library may hold many
        more than are off, and a switch has no time to go through them: the sum over all is kept, and that over those
        that are off taken from it, wherever that is less work. Which it is follows from the two sets, so that the bits
        do too."""
        names = tuple(sorted(self.increments))
        kept = {name: self._kept(name) for name in names if name not in active}
        erased = {name: [] if increment.gram is None else [increment.gram] for name, increment in active.items()}
        on, off = ([factor for found in side.values() for factor in found] for side in (kept, erased))
        if not on:
            return []
        if len(on) <= len(off):
            return [gram(torch.cat(on, dim=1).T)]
        if self._everything is None or self._everything[0] != names:
            every = [factor for name in names for factor in (kept | erased)[name]]
            self._everything = names, gram(torch.cat(every, dim=1).T)
        return [self._everything[1] - gram(torch.cat(off, dim=1).T)]

    def _kept(self, name: str) -> list[torch.Tensor]:
        """The Gram factor of an increment that is not off; none of one that could not be put on this base anyway."""
        try:
            return [self._own(self._increment(name))]
        except ValueError as error:
            if name not in self._passed_over:
                logger.warning("the tokens of %r are not kept: %s", name, error)
                self._passed_over.add(name)
            return []

    def _own(self, increment: Increment) -> torch.Tensor:
        if increment.gram is None:
            raise ValueError(
                f"increment {increment.concept!r} holds no Gram matrix of its concept's tokens, without which concepts "
                "cannot be told apart: erase it again, or compose with solve='sum'"
            )
        return increment.gram

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
            weights = {**self._parameters, **self._pristine}
            for parameter in (increment.deltas.keys() & weights.keys()) - self._fingerprints.keys():
                self._fingerprints[parameter] = Fingerprint.of("this U-Net", {parameter: weights[parameter]})
            require_fits(increment, weights, self._fingerprints)
            self._checked[name] = increment
        return self._checked[name]

    def _rebuild(self, name: str, changes: _Changes) -> None:
        parameter = self._parameters[name]
        pristine = self._pristine.setdefault(name, parameter.detach().clone())
        # Straight into the weight, where nothing has to be rounded.
        out = parameter if parameter.dtype == torch.float32 else None
        parameter.copy_(changes.added(pristine.float(), name, out))


class _Changes:
    """``Σ s_i Δ_i T_i`` of a set of concepts, one parameter after another. Keys and values share the factor that reads
    the text, in most files: what is done to it is done once."""

    def __init__(
        self, active: Mapping[str, Increment], strengths: Mapping[str, float], transfers: Mapping[str, Transfer]
    ):
        self.active, self.strengths, self.transfers = active, strengths, transfers
        self._stacked: dict[tuple, torch.Tensor] = {}

    def added(self, start: torch.Tensor, parameter: str, out: torch.Tensor | None = None) -> torch.Tensor:
        """``start`` and the changes of this parameter, in float32; ``start`` stays as it is. Factors, which are most of
        what there is, are stacked and multiplied once: so the weights are gone through once, however many concepts.
        ``out``: where such a product may be written."""
        factors = {}
        for concept, increment in self.active.items():
            delta = increment.deltas.get(parameter)
            if isinstance(delta, Factors):
                factors[concept] = delta
            elif delta is not None:
                start = start + self._moved(concept, parameter, delta).to(start.device)
        if not factors:
            return start
        key = (reads_text(parameter), *((concept, id(delta.down)) for concept, delta in factors.items()))
        if key not in self._stacked:
            rows = [self._moved(concept, parameter, delta.down) for concept, delta in factors.items()]
            self._stacked[key] = torch.cat(rows).to(start.device)
        up = torch.cat([delta.up for delta in factors.values()], dim=1).to(start.device)
        return torch.addmm(start, up, self._stacked[key], out=out)

    def _moved(self, concept: str, parameter: str, rows: torch.Tensor) -> torch.Tensor:
        through = self.transfers.get(concept) if reads_text(parameter) else None
        return self.strengths[concept] * (through(rows) if through else rows)
