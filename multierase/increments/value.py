"""An increment: what an erasure changes of a base's weights, as a value with an algebra."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch

from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Provenance

Step = Mapping[str, Any]  # one entry of a history


@dataclass(frozen=True, eq=False)
class Factors:
    """A low-rank increment of one matrix: ``Δ = up @ down``.

    Args:
        up: ``(out, r)``.
        down: ``(r, in)``.
    """

    up: torch.Tensor
    down: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.up.shape[0], self.down.shape[1]))

    def dense(self) -> torch.Tensor:
        """Return ``Δ`` ``(out, in)``."""
        return self.up @ self.down


Delta = torch.Tensor | Factors


def times(delta: Delta, tokens: torch.Tensor) -> torch.Tensor:
    """Return ``Δ E`` for ``E`` ``(in, n)``, without making ``Δ``."""
    if isinstance(delta, Factors):
        return delta.up @ (delta.down @ tokens)

    return delta @ tokens


def dense(delta: Delta) -> torch.Tensor:
    """Return ``Δ`` as one tensor."""
    return delta.dense() if isinstance(delta, Factors) else delta


def changed(
    base: Mapping[str, torch.Tensor], deltas: Mapping[str, Delta]
) -> dict[str, torch.Tensor]:
    """Return ``cast(W0 + Δ)`` of these parameters, where the base's own ``W0`` are."""
    weights = {}
    for name, delta in deltas.items():
        own = base[name].detach()
        # A convolution's factors are matrices.
        added = dense(delta).reshape(own.shape).to(own.device)
        weights[name] = (own.float() + added).to(own.dtype)

    return weights


def squared_norm(delta: Delta) -> float:
    """Return ``‖Δ‖²``; that of factors from their small Gram matrices, without making ``Δ``."""
    if not isinstance(delta, Factors):
        return delta.double().square().sum().item()

    up, down = delta.up.double(), delta.down.double()
    return max(((up.T @ up) * (down @ down.T)).sum().item(), 0.0)  # rounding can fall below zero


@dataclass(frozen=True, eq=False)
class Increment:
    """``Δ = W_erased − W_base``: what to add to a base's weights so that it forgets a concept.

    A value: ``+``, ``-``, ``*`` by a number and ``sum()`` give new increments, and touch no model
    and no file. Addition is over the union of the parameters. Two increments are equal if
    their numbers, base, provenance, readers and history are.

    Args:
        deltas: by parameter a dense float32 tensor of its shape, or ``Factors``.
        base: fingerprint of the base's own values of these parameters.
        provenance: how it was made.
        grams: by stream ``F`` ``(d, r)`` float32, with ``F Fᵀ`` the Gram matrix of the concept's
            token embeddings. Composing needs it to tell what belongs to the concept.
        readers: those of its parameters that read one stream alone, with the stream.
        history: what was done with it since it was made, one entry each: ``scaled``, ``summed``,
            ``compressed``, ``renamed``, ``imported``.

    Raises:
        ValueError: for a fingerprint of other parameters, or readers among other ones.
    """

    deltas: Mapping[str, Delta]
    base: Fingerprint
    provenance: Provenance
    grams: Mapping[str, torch.Tensor] = field(default_factory=dict)
    readers: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        for name in ("deltas", "grams", "readers"):
            entries = dict(sorted(getattr(self, name).items()))
            object.__setattr__(self, name, MappingProxyType(entries))
        object.__setattr__(self, "history", tuple(self.history))

        missing = sorted(self.deltas.keys() ^ self.base.digests.keys())
        if missing:
            raise ValueError(
                f"increment and fingerprint do not name the same parameters: {missing[:5]}"
            )
        unknown = sorted(self.readers.keys() - self.deltas.keys())
        if unknown:
            raise ValueError(f"readers that the increment does not change: {unknown[:5]}")

    @property
    def concept(self) -> str:
        """The concept's name."""
        return self.provenance.concept

    @property
    def also(self) -> tuple[str, ...]:
        """Other concepts that it erases too, if it was imported from a file of several."""
        found: list[str] = []
        for step in self.history:
            listed = step.get("concepts")
            if step["step"] == "imported" and isinstance(listed, list | tuple):
                found += () if step.get("projected") else map(str, listed)

        return tuple(name for name in dict.fromkeys(found) if name != self.concept)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter that it changes."""
        return {name: tuple(delta.shape) for name, delta in self.deltas.items()}

    def dense(self, parameter: str) -> torch.Tensor:
        """Return ``Δ`` of one parameter as a dense float32 tensor."""
        return dense(self.deltas[parameter])

    def norm(self) -> float:
        """Return the Frobenius norm over all parameters."""
        return math.sqrt(sum(squared_norm(delta) for delta in self.deltas.values()))

    def named(self, name: str) -> Increment:
        """Return the same increment under another concept's name.

        Raises:
            ValueError: for a name that cannot be a concept's.
        """
        provenance = Provenance.from_dict({**self.provenance.as_dict(), "concept": name})
        step = {"step": "renamed", "from": self.concept}

        return replace(self, provenance=provenance, history=(*self.history, step))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Increment):
            return NotImplemented

        return (
            self.provenance == other.provenance
            and self.base == other.base
            and self.readers == other.readers
            and self.history == other.history
            and _same_tensors(self._tensors(), other._tensors())
        )

    def __hash__(self) -> int:
        return hash((self.concept, tuple(self.deltas), len(self.history)))

    def __add__(self, other: Increment) -> Increment:
        if isinstance(other, int) and other == 0:  # the start of sum()
            return self
        if not isinstance(other, Increment):
            return NotImplemented
        self._require_same_base(other)

        names = self.deltas.keys() | other.deltas.keys()
        provenance = replace(
            self.provenance.derived(f"{self.concept} + {other.concept}"),
            prompts=self.provenance.prompts + other.provenance.prompts,
            contexts=self.provenance.contexts + other.provenance.contexts,
            scope=self.provenance.scope if self.provenance.scope == other.provenance.scope else "",
        )
        step = {"step": "summed", "of": [self.concept, other.concept]}

        return Increment(
            deltas={name: _added(self.deltas.get(name), other.deltas.get(name)) for name in names},
            base=self.base.union(other.base),
            provenance=provenance,
            grams=_joined(self.grams, other.grams),
            readers={**self.readers, **other.readers},
            history=(*self.history, *other.history, step),
        )

    __radd__ = __add__

    def __mul__(self, factor: float) -> Increment:
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            return NotImplemented
        if not math.isfinite(factor):
            raise ValueError(
                f"cannot scale increment {self.concept!r} by {factor}: give a finite number"
            )
        if factor == 1:
            return self

        deltas = {name: _scaled(delta, float(factor)) for name, delta in self.deltas.items()}
        provenance = self.provenance.derived(f"{factor:g} × {self.concept}")
        step = {"step": "scaled", "by": float(factor), "of": self.concept}
        return replace(self, deltas=deltas, provenance=provenance, history=(*self.history, step))

    __rmul__ = __mul__

    def __neg__(self) -> Increment:
        return self * -1.0

    def __sub__(self, other: Increment) -> Increment:
        if not isinstance(other, Increment):
            return NotImplemented

        return self + -other

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"gram.{stream}": gram for stream, gram in self.grams.items()}
        for name, delta in self.deltas.items():
            if isinstance(delta, Factors):
                tensors |= {f"{name}.up": delta.up, f"{name}.down": delta.down}
            else:
                tensors[name] = delta

        return tensors

    def _require_same_base(self, other: Increment) -> None:
        differing = self.base.differing(other.base)
        if self.base.name != other.base.name or differing:
            raise ValueError(
                f"increments of different bases: {self.concept!r} is of {self.base.name!r}, "
                f"{other.concept!r} of {other.base.name!r} (parameters that differ: "
                f"{differing[:3]})"
            )

        for name in self.deltas.keys() & other.deltas.keys():
            here, there = tuple(self.deltas[name].shape), tuple(other.deltas[name].shape)
            if here != there:
                raise ValueError(
                    f"{name}: shape {here} in {self.concept!r}, {there} in {other.concept!r}"
                )


def _same_tensors(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _scaled(delta: Delta, factor: float) -> Delta:
    if isinstance(delta, Factors):
        return Factors(delta.up * factor, delta.down)

    return delta * factor


def _added(a: Delta | None, b: Delta | None) -> Any:
    """Return ``a + b``. Factors are stacked, never added: that would bring cross terms."""
    if a is None:
        return b
    if b is None:
        return a

    if isinstance(a, Factors) and isinstance(b, Factors):
        fits = a.up.shape[1] + b.up.shape[1] <= min(a.shape)
        if fits:
            return Factors(torch.cat([a.up, b.up], dim=1), torch.cat([a.down, b.down], dim=0))

    return dense(a) + dense(b)


def _joined(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the Gram factors of both concepts' tokens; none of a stream that one does not know."""
    return {
        stream: gram_factor(torch.cat([a[stream], b[stream]], dim=1).T)
        for stream in a.keys() & b.keys()
    }


def gram_factor(tokens: torch.Tensor, tolerance: float = 1e-4) -> torch.Tensor:
    """Return ``F`` ``(d, r)`` with ``F Fᵀ = Eᵀ E`` for token embeddings ``E`` ``(n, d)``.

    Args:
        tolerance: directions with less than this share of the largest singular value are left out.
    """
    tokens = tokens.double()
    if len(tokens) > tokens.shape[1]:  # thousands of rows: the same Gram matrix from fewer
        tokens = torch.linalg.qr(tokens, mode="r").R
    _, scales, rows = torch.linalg.svd(tokens, full_matrices=False)
    rank = max(int((scales > tolerance * scales[0]).sum()), 1)

    return (rows[:rank].T * scales[:rank]).float().contiguous()
