"""The composer: applies a set of increments to a model, and removes any of them again."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import torch

from multierase.errors import DeviceError, IncrementFileError, ModelChanged, suggest
from multierase.increments.value import Increment
from multierase.models.model import Model
from multierase.models.weights import Weights, acquire, release, require_free
from multierase.separation.changes import Changes, Transfers
from multierase.separation.crosstalk import crosstalk_of, deviations_of
from multierase.separation.fitting import Fitting, grams_of
from multierase.separation.keep_list import KeepList

logger = logging.getLogger(__name__)

Solve = Literal["sum", "joint"]
KEPT = "(kept)"  # the column of a cross-talk table for what the keep-list says
MOST_SOLVED = 64  # sets whose solve is remembered


class Composer:
    """Erases and restores concepts on a model, in any order, exactly.

    The state is a set ``{concept: strength}``, never a history. Touched weights are rebuilt as
    ``cast(W0 + Σ s_i Δ_i T_i)``, summed in float32 in the order of the concepts' names from a
    pristine copy of ``W0``, and cast once. So the order of calls cannot matter; everything restored
    gives the base bit for bit; and restoring one gives, bit for bit, the weights as if it had never
    been erased. New weights are computed and checked first, and written after. If an error or an
    interrupt happens on the way, the weights stay as ``erased`` says.

    The ``solve`` says how increments that were trained apart are put together. ``sum`` adds them
    unchanged (every ``T_i`` is the identity). ``joint``: parameters that read the text alone are
    solved for at once, so that each concept's own tokens move as its increment moves them, and the
    tokens of everything kept stay. Every concept that is not erased, and the keep-list, is kept.
    All other parameters do not read the text alone, so they are summed whatever the solve.

    While concepts are erased, the composer holds the model: another composer is refused, and
    changes by others are noticed.

    Args:
        model: its weights are changed in place.
        increments: from concept name to increment, such as a ``Library``.
        solve: ``sum`` or ``joint``; by default ``joint`` if there is a keep-list, else ``sum``,
            which then keeps more.
        keep: prompts to keep, for ``joint``.
        keep_weight: weight of the kept side in ``joint``, beside all erased concepts together.
        ridge: regularisation of the joint solve, in units of the tokens' mean variance.

    Raises:
        ValueError: for an unknown solve, or numbers out of range.
    """

    def __init__(
        self,
        model: Model,
        increments: Mapping[str, Increment],
        *,
        solve: Solve | None = None,
        keep: KeepList | None = None,
        keep_weight: float = 3.0,
        ridge: float = 3e-2,
    ):
        solve = solve or ("sum" if keep is None else "joint")
        known = get_args(Solve)
        if solve not in known:
            raise ValueError(f"unknown solve {solve!r}{suggest(solve, known)}; give one of {known}")
        for name, value in (("keep_weight", keep_weight), ("ridge", ridge)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}, give 0 or more")

        self.model, self.increments, self.solve, self.keep = model, increments, solve, keep
        self.keep_weight, self.ridge = keep_weight, ridge
        self._lock = threading.RLock()
        self._erased: dict[str, float] = {}
        self._warned: set[str] = set()
        self._unsure: frozenset[str] = frozenset()  # parameters whose writing was interrupted
        self._begin()

    @property
    def erased(self) -> Mapping[str, float]:
        """The concepts that are erased now, with their strengths.

        Weights that an interrupt left half written are rebuilt first, so that this is always true.
        """
        with self._lock:
            if self._unsure:
                self._commit(self._erased, dict(self._build(self._unsure, self._erased)))
                self._settle()

            return MappingProxyType(dict(sorted(self._erased.items())))

    def erase(self, *concepts: str, strength: float = 1.0) -> None:
        """Erase more concepts, or give erased ones another strength."""
        with self._lock:
            self.set({**self.erased, **dict.fromkeys(concepts, strength)})

    def restore(self, *concepts: str) -> None:
        """Restore erased concepts. Raises ``ValueError`` for one that is not erased."""
        with self._lock:
            now = self.erased
            wrong = sorted(set(concepts) - now.keys())
            if wrong:
                raise ValueError(f"cannot restore {wrong}: not erased; erased now: {sorted(now)}")
            self.set({name: s for name, s in now.items() if name not in concepts})

    def restore_all(self) -> None:
        """Restore every concept: the base, bit for bit."""
        self.set({})

    def set(self, erased: Mapping[str, float]) -> None:
        """Erase exactly these concepts at these strengths; a strength of 0 restores.

        Raises:
            UnknownConcept: for a concept without an increment.
            ValueError: for a strength that is not finite, an increment of another base, or weights
                that would not be finite.
            ModelHeld: if another composer has concepts erased on the model.
            ModelChanged: if somebody else has changed the composed weights.
        """
        with self._lock:
            wanted = _strengths(erased)
            try:
                self._ready(wanted)
                touched = self._touched(wanted)
                self._warn_of_summed(wanted)
                if touched or wanted != self._erased:
                    self._commit(wanted, dict(self._build(touched, wanted)))
            finally:
                self._settle()

    def check(self, erased: Mapping[str, float]) -> None:
        """Raise what ``set`` would raise for these concepts, and change nothing."""
        with self._lock:
            wanted = _strengths(erased)
            try:
                self._ready(wanted)
                for _ in self._build(self._touched(wanted), wanted):
                    pass
            finally:
                self._settle()

    @contextlib.contextmanager
    def erasing(self, *concepts: str, strength: float = 1.0) -> Iterator[Composer]:
        """Erase more concepts inside a ``with`` block; return to the previous state after it."""
        before = dict(self.erased)
        try:
            self.erase(*concepts, strength=strength)
            yield self
        finally:
            try:
                self.set(before)
            except BaseException:
                self.set(before)  # an interrupt just here must not leave the concepts erased
                raise

    @contextlib.contextmanager
    def planned(self, sets: Sequence[Mapping[str, float]]) -> Iterator[list[Changes]]:
        """Yield what each of these sets adds to the base, and hold the base itself for a block.

        Nothing is written for the sets. What is erased now is restored for the block, and erased
        again after it. Other threads that compose wait; other composers are refused.

        Raises:
            UnknownConcept, ValueError, ModelHeld, ModelChanged: see ``set``; before anything is
                changed.
        """
        with self._lock, self.erasing():
            wanted = [_strengths(erased) for erased in sets]
            self._ready({name: each[name] for each in wanted for name in each})
            plans = []
            for each in wanted:
                plans.append(self._changes(each))
                self._warn_of_summed(each)

            self.set({})
            self._hold = acquire(self, self._weights)  # though nothing is erased
            yield plans

    def deviations(self) -> dict[str, float]:
        """Return how far each erased concept's effect is from what its increment does alone.

        ``‖(ΔW − s_i Δ_i) E_i‖ / ‖s_i Δ_i E_i‖`` over the parameters that read the text alone. 0:
        the same effect as alone; 1: no effect. Increments that change no such parameter, or hold no
        Gram matrix, have none.
        """
        with self._lock:
            return deviations_of(self._changes(self.erased))

    def crosstalk(self) -> dict[str, dict[str, float]]:
        """Return ``X_ij = ‖Δ_i E_j‖ / ‖W0 E_j‖``, known before any picture is made.

        It says how much concept ``i``'s increment moves concept ``j``'s tokens, over the parameters
        that read the text alone. A column ``(kept)`` has its effect on the keep-list's prompts that
        are not about ``i``, if there is a keep-list.
        """
        with self._lock:
            whole = self._usable(sorted(self.increments), self._fitting.found)
            self._notice_another_base(whole)
            increments = self._usable(whole, self._fitting.increment)

        grams: dict[str, dict[str, torch.Tensor]] = {}
        for name, increment in increments.items():
            factors = {stream: f.double() for stream, f in grams_of(increment).items()}
            grams[name] = {stream: factor @ factor.T for stream, factor in factors.items()}

        table = {}
        for name, increment in increments.items():
            if not increment.readers:
                continue
            kept = {}
            if self.keep is not None:
                lists = {s: self.keep.lists(s, [name]) for s in self.model.streams}
                kept = {KEPT: {s: torch.stack(grams).sum(0) for s, grams in lists.items()}}
            table[name] = crosstalk_of(increment, {**grams, **kept}, self._weights.pristine)

        return table

    def _usable(
        self, names: Iterable[str], look_up: Callable[[str], Increment]
    ) -> dict[str, Increment]:
        """Return the increments that can be looked up; one odd file must not hide the others."""
        increments = {}
        for name in names:
            try:
                increments[name] = look_up(name)
                grams_of(increments[name])
            except IncrementFileError as error:
                increments.pop(name, None)
                logger.warning("%r is left out of the cross-talk: %s", name, error)

        return increments

    def close(self) -> None:
        """Restore everything, and release the model, so that others can use it.

        Weights that somebody else has changed stay as they are, with a warning.
        """
        with self._lock:
            try:
                self.restore_all()
            except (ModelChanged, DeviceError):
                self._hold.give_back()
                self._erased, self._unsure = {}, frozenset()
                self._settle()
                self._begin()

    def _begin(self) -> None:
        """Discard the pristine copies and checks: take the weights as they are now."""
        self._weights = Weights(self.model)
        self._fitting = Fitting(self, self._weights, self.increments)
        self._solved: dict[tuple, Transfers] = {}

    def _ready(self, wanted: Mapping[str, float]) -> None:
        """Check that nobody else has changed or holds the model since the last composition."""
        if self._erased or self._unsure:
            concerned = self._changed_by(wanted.keys() | self._erased.keys())
            # Those may hold anything, because writing them was interrupted.
            self._weights.require_untouched(concerned - self._unsure)
        elif wanted:
            require_free(self.model, self)
            self._notice_another_base(wanted)
            self._hold = acquire(self, self._weights)

    def _notice_another_base(self, concepts: Iterable[str]) -> None:
        """Forget the base if it has other weights by now: with nothing erased, it was free."""
        if self._erased or self._unsure:
            return
        if self._weights.changed_since(self._changed_by(concepts)):
            self._begin()

    def _changed_by(self, concepts: Iterable[str]) -> frozenset[str]:
        """Return the parameters that these concepts' increments change."""
        return frozenset().union(*(self._fitting.found(concept).deltas for concept in concepts))

    def _touched(self, wanted: Mapping[str, float]) -> frozenset[str]:
        """Return the parameters that have to be rebuilt."""
        names = wanted.keys() | self._erased.keys()
        changed = {n for n in names if wanted.get(n) != self._erased.get(n)}
        # A solve depends on the whole set: adding or removing one concept changes it for all.
        moving = names if changed and self.solve != "sum" else changed

        for name in sorted(moving):
            self._fitting.increment(name)  # raises for one that does not fit
        return self._unsure | self._changed_by(moving)

    def _warn_of_summed(self, wanted: Mapping[str, float]) -> None:
        """Say once for each concept what the joint solve cannot reach."""
        for name in sorted(wanted.keys() - self._warned) if self.solve == "joint" else ():
            increment = self._fitting.increment(name)
            summed = [p for p in increment.deltas if p not in increment.readers]
            self._warned.add(name)
            if summed:
                logger.warning(
                    "%r changes %d parameters that do not read the text alone: those are summed, "
                    "whatever the solve",
                    name,
                    len(summed),
                )

    def _changes(self, strengths: Mapping[str, float]) -> Changes:
        """Put a set of concepts together."""
        active = {name: self._fitting.increment(name) for name in sorted(strengths)}
        transfers = self._transfers(active) if active and self.solve == "joint" else {}

        return Changes(active, strengths, transfers)

    def _transfers(self, active: Mapping[str, Increment]) -> Transfers:
        """Solve for a set, or recall what was solved lately: it is the same at any strengths."""
        # All else that the library holds by now is kept. It reads its folder for each look: there
        # is one, for sorting the mapping would ask for its length too.
        names = tuple(sorted(iter(self.increments)))
        weights = {"keep_weight": self.keep_weight, "ridge": self.ridge}
        key = (*active, names, *weights.values())
        found = self._solved.pop(key, None)
        if found is None:
            found = self._fitting.transfers(active, names, self.keep, **weights)

        self._solved[key] = found  # the latest last
        if len(self._solved) > MOST_SOLVED:
            del self._solved[next(iter(self._solved))]
        return found

    def _build(
        self, touched: frozenset[str], wanted: Mapping[str, float]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Compute new values of these parameters, cast and checked; nothing is changed."""
        changes = self._changes(wanted)
        self._weights.keep(touched)

        for name in sorted(touched):
            pristine = self._weights.pristine(name)
            values = changes.added(pristine.float(), name).to(pristine.dtype)
            _require_finite(values, name, wanted)
            yield name, values

    def _commit(self, wanted: Mapping[str, float], built: Mapping[str, torch.Tensor]) -> None:
        """Write new weights; if anything is raised, write the old ones again."""
        before, unsure = self._erased, self._unsure | built.keys()
        self._hold.note(unsure | self._changed_by(before))
        self._unsure = unsure
        try:
            for name, values in built.items():
                self._weights.write(name, values)
            self._erased = dict(wanted)
            self._unsure = frozenset()
        except BaseException:
            self._erased, self._unsure = before, unsure
            # If this fails too, the parameters stay noted, and the next call rebuilds them.
            for name, values in self._build(unsure, before):
                self._weights.write(name, values)
            self._unsure = frozenset()
            raise

    def _settle(self) -> None:
        """Note what is changed, or release the model."""
        if self._unsure:
            return
        if self._erased:
            self._hold.note(self._changed_by(self._erased))
        else:
            release(self, self._weights)


def _strengths(erased: Mapping[str, float]) -> dict[str, float]:
    wrong = {name: strength for name, strength in erased.items() if not math.isfinite(strength)}
    if wrong:
        raise ValueError(f"strengths must be finite numbers, given {wrong}")

    return {name: float(strength) for name, strength in erased.items() if strength != 0}


def _require_finite(values: torch.Tensor, name: str, erased: Mapping[str, float]) -> None:
    # The sum is as fast as memory; only if it is not finite is every value looked at.
    if torch.isfinite(values.sum(dtype=torch.float32)) or torch.isfinite(values).all():
        return

    raise ValueError(
        f"erasing {dict(erased)} would make {name} infinite in {values.dtype}: give smaller "
        "strengths, or another increment"
    )
