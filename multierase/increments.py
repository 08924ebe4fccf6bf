"""An increment: what an erasure changes of a base's weights, as an immutable value with an algebra."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from multierase.base import Fingerprint


def reads_text(parameter: str) -> bool:
    """Is it a matrix whose input is the text embedding, so that what it does to a token is known without a picture?"""
    return parameter.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))


# Which of the U-Net's parameters an erasure may touch. Normalisation layers are never touched, as in the authors' code.
SCOPES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "esd-x": ("all of cross-attention: for what a prompt names, an artist", lambda name: ".attn2." in name),
    "esd-x-strict": (
        "keys and values of cross-attention: small files, exact separation",
        reads_text,
    ),
    "esd-u": (
        "everything but cross-attention: for what must go even when no prompt names it, nudity",
        lambda name: ".attn2." not in name,
    ),
    "selfattn": ("all of self-attention", lambda name: ".attn1." in name),
    "full": ("every weight", lambda name: True),
}


def touched_parameters(unet: UNet2DConditionModel, scope: str) -> list[str]:
    """Names of the U-Net's parameters in ``scope``, sorted.

    Raises:
        ValueError: for an unknown scope, or one that selects nothing in this U-Net.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}{suggest(scope, SCOPES)}; scopes: {sorted(SCOPES)}")
    selects = SCOPES[scope][1]
    normalisations = {
        f"{module}.{name}"
        for module, layer in unet.named_modules()
        if isinstance(layer, (torch.nn.GroupNorm, torch.nn.LayerNorm))
        for name, _ in layer.named_parameters(recurse=False)
    }
    names = sorted(name for name, _ in unet.named_parameters() if selects(name) and name not in normalisations)
    if not names:
        raise ValueError(f"scope {scope!r} selects no parameter of this U-Net, so there would be nothing to train")
    return names


def suggest(given: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` where something allowed is near to what was given, else nothing."""
    by_lower = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


@dataclass(frozen=True)
class Factors:
    """A low-rank increment of one matrix: ``Δ = up @ down``, ``up`` ``(out, r)`` and ``down`` ``(r, in)``."""

    up: torch.Tensor
    down: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.up.shape[0], self.down.shape[1]))

    def dense(self) -> torch.Tensor:
        return self.up @ self.down


Delta = torch.Tensor | Factors


def times(delta: Delta, tokens: torch.Tensor) -> torch.Tensor:
    """``Δ E`` for ``(in, n)``, without making ``Δ``."""
    return delta.up @ (delta.down @ tokens) if isinstance(delta, Factors) else delta @ tokens


def _dense(delta: Delta) -> torch.Tensor:
    return delta.dense() if isinstance(delta, Factors) else delta


def _scaled(delta: Delta, factor: float) -> Delta:
    return Factors(delta.up * factor, delta.down) if isinstance(delta, Factors) else delta * factor


def _added(a: Delta | None, b: Delta | None) -> Delta:
    """``a + b``. Factors are stacked, never added: ``(u1 + u2)(d1 + d2)`` would bring cross terms."""
    if a is None or b is None:
        return b if a is None else a
    both = isinstance(a, Factors) and isinstance(b, Factors)
    if both and a.up.shape[1] + b.up.shape[1] <= min(a.shape):
        return Factors(torch.cat([a.up, b.up], dim=1), torch.cat([a.down, b.down], dim=0))
    return _dense(a) + _dense(b)


@dataclass(frozen=True)
class Increment:
    """``Δ = W_erased − W_base``: what to add to a base's weights so that it forgets a concept.

    A value: ``+``, ``-``, ``*`` by a number and ``sum()`` give new increments and touch no model and no file. Addition
    is over the union of the parameters.

    Args:
        deltas: per U-Net parameter a dense float32 tensor of its shape, or ``Factors``.
        base: fingerprint of the base's own values of these parameters.
        info: how it was made, JSON values only: ``concept``, ``scope``, ``settings``, ``seed``, ...
        gram: ``(d, r)`` float32 ``F`` with ``F Fᵀ`` the Gram matrix of the concept's token embeddings; composing needs
            it to tell what is the concept's from what is not.
    """

    deltas: Mapping[str, Delta]
    base: Fingerprint
    info: Mapping[str, Any] = field(default_factory=dict)
    gram: torch.Tensor | None = None

    def __post_init__(self):
        object.__setattr__(self, "deltas", MappingProxyType(dict(sorted(self.deltas.items()))))
        object.__setattr__(self, "info", MappingProxyType(dict(self.info)))
        missing = sorted(self.deltas.keys() ^ self.base.digests.keys())
        if missing:
            raise ValueError(f"increment and fingerprint do not name the same parameters: {missing[:5]}")

    @property
    def concept(self) -> str:
        return self.info.get("concept", "unnamed")

    def dense(self, parameter: str) -> torch.Tensor:
        """``Δ`` of one parameter as a dense float32 tensor."""
        return _dense(self.deltas[parameter])

    def norm(self) -> float:
        """Frobenius norm over all parameters."""
        return math.sqrt(sum(self.dense(name).double().square().sum().item() for name in self.deltas))

    def __add__(self, other: Increment) -> Increment:
        if other == 0:  # the start of sum()
            return self
        if not isinstance(other, Increment):
            return NotImplemented
        self._require_same_base(other)
        names = self.deltas.keys() | other.deltas.keys()
        deltas = {name: _added(self.deltas.get(name), other.deltas.get(name)) for name in names}
        base = replace(
            self.base,
            digests={**self.base.digests, **other.base.digests},
            sketches={**self.base.sketches, **other.base.sketches},
        )
        grams = [gram for gram in (self.gram, other.gram) if gram is not None]
        gram = torch.cat(grams, dim=1) if len(grams) == 2 else None
        return Increment(deltas, base, {"concept": f"{self.concept} + {other.concept}"}, gram)

    __radd__ = __add__

    def __mul__(self, factor: float) -> Increment:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        if not math.isfinite(factor):
            raise ValueError(f"cannot scale increment {self.concept!r} by {factor}: give a finite number")
        return self._with({name: _scaled(delta, float(factor)) for name, delta in self.deltas.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Increment:
        return self * -1.0

    def __sub__(self, other: Increment) -> Increment:
        return self + -other

    def factored(self, tolerance: float = 1e-6) -> Increment:
        """Matrices as factors of their numerical rank, where that takes less room.

        ``tolerance`` bounds the relative Frobenius error of each matrix; the default is float32's own rounding.
        """
        return self._with({name: _factored(delta, tolerance) for name, delta in self.deltas.items()})

    def compressed(self, error: float, dtype: torch.dtype = torch.float16) -> Increment:
        """Cut to few numbers that lose no more than ``error`` of the whole increment's Frobenius norm.

        Keys and values all read the same text, so they are cut as one stacked matrix, whose right singular vectors
        they share as ``down``; every other matrix has its own. Of all singular values those go first that carry the
        least for the numbers they take; then the numbers are rounded to ``dtype``, in which they are stored: with
        int8 the ``up`` factors, of which there are most, have whole numbers of their column's largest, and the rest
        stays float32 and, where nothing is factored, float16. Vectors and convolutions are only rounded. The Gram
        matrix loses the directions with less than ``error`` of its largest singular value. ``info["compression"]``
        tells the error that was measured at the end, rounding included.

        Raises:
            ValueError: for an error that is not within 0 and 1, or too small for the precision.
        """
        if not 0 <= error < 1:
            raise ValueError(f"error is {error}, give a share of the increment's norm: 0 or more and less than 1")
        norm, budget = self.norm(), error**2
        for _ in range(4):  # what rounding loses has to come off what may be cut, and is only known afterwards
            deltas = self._cut_to(budget * norm**2, dtype)
            lost = sum((_dense(d) - self.dense(n)).double().square().sum().item() for n, d in deltas.items())
            measured = math.sqrt(lost) / norm if lost else 0.0
            if measured <= error + 1e-9:
                break
            budget = max(budget - 1.5 * (measured**2 - error**2), 0.0)
        else:
            raise ValueError(
                f"{self.concept!r}: {dtype} alone loses {measured:.1e}, more than the {error} that is allowed: allow "
                "more, or keep float32"
            )
        gram = self.gram
        if gram is not None:
            gram = _rounded(gram_factor(gram.T, tolerance=max(error, 1e-4)), _beside(dtype))
        compression = {"error": measured, "allowed": error, "dtype": str(dtype).removeprefix("torch.")}
        return replace(self, deltas=deltas, info={**self.info, "compression": compression}, gram=gram)

    def _cut_to(self, lost: float, dtype: torch.dtype) -> dict[str, Delta]:
        """Without singular values whose squares add up to ``lost``; rounded to ``dtype``."""
        stacks = self._stacks()
        spectra = [self._spectrum(names) for names in stacks]
        costs = [
            sum(self.deltas[n].shape[0] for n in names) + len(v) for names, (_, v) in zip(stacks, spectra, strict=True)
        ]
        squares = torch.cat([squares for squares, _ in spectra] or [torch.zeros(1)])
        worth = torch.cat(
            [squares / cost for (squares, _), cost in zip(spectra, costs, strict=True)] or [torch.zeros(1)]
        )
        order = worth.argsort()
        dropped = int((squares[order].cumsum(0) <= lost).sum())
        least = worth[order[dropped - 1]] if dropped else -1.0
        rest = [(name, delta) for name, delta in self.deltas.items() if len(delta.shape) != 2]
        deltas = {name: _rounded(_dense(delta), _beside(dtype)) for name, delta in rest}
        for names, (squares, vectors), cost in zip(stacks, spectra, costs, strict=True):
            rank = max(int((squares / cost > least).sum()), 1)
            deltas.update(self._truncated(names, squares[:rank], vectors[:, :rank], dtype))
        return deltas

    def _stacks(self) -> list[list[str]]:
        """Matrices that are cut together: keys and values, which have one input; every other one alone."""
        matrices = [name for name, delta in self.deltas.items() if len(delta.shape) == 2]
        text = [name for name in matrices if reads_text(name)]
        return [*[text] * bool(text), *([name] for name in matrices if name not in text)]

    def _spectrum(self, names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Squares of the stacked matrix's singular values, falling, and its right singular vectors as columns."""
        total = 0.0
        for delta in (self.deltas[name] for name in names):
            if isinstance(delta, Factors):
                up, down = delta.up.double(), delta.down.double()
                total = total + down.T @ (up.T @ up) @ down
            else:
                total = total + delta.double().T @ delta.double()
        squares, vectors = torch.linalg.eigh(total)
        return squares.flip(0).clamp_min(0), vectors.flip(1)

    def _truncated(
        self, names: Sequence[str], squares: torch.Tensor, vectors: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, Delta]:
        """The stacked matrix's first singular directions, where that takes less room than all of it."""
        shapes = [self.deltas[name].shape for name in names]
        if len(squares) * (sum(shape[0] for shape in shapes) + len(vectors)) >= sum(map(math.prod, shapes)):
            return {name: _rounded(self.dense(name), _beside(dtype)) for name in names}
        root = squares.clamp_min(torch.finfo(torch.float64).tiny).sqrt().sqrt()  # half of the size to either factor
        down = (root * vectors).T.float().contiguous()
        ups = {name: times(self.deltas[name], (vectors / root).float()) for name in names}
        if dtype == torch.int8:
            unit = torch.cat(list(ups.values())).abs().amax(dim=0).clamp_min(torch.finfo(torch.float32).tiny) / 127
            ups, down = {name: (up / unit).round() for name, up in ups.items()}, down * unit[:, None]
        else:
            ups, down = {name: _rounded(up, dtype) for name, up in ups.items()}, _rounded(down, dtype)
        return {name: Factors(up, down) for name, up in ups.items()}

    def densified(self) -> Increment:
        """Every parameter dense."""
        return self._with({name: self.dense(name) for name in self.deltas})

    def _with(self, deltas: Mapping[str, Delta]) -> Increment:
        """Of other numbers, which are not rounded to what the old ones were."""
        info = {key: value for key, value in self.info.items() if key != "compression"}
        return replace(self, deltas=deltas, info=info)

    def _require_same_base(self, other: Increment) -> None:
        if self.base.name != other.base.name or self.base.differing(other.base):
            raise ValueError(
                f"increments of different bases: {self.concept!r} is of {self.base.name!r}, {other.concept!r} of "
                f"{other.base.name!r} (parameters that differ: {self.base.differing(other.base)[:3]})"
            )
        for name in self.deltas.keys() & other.deltas.keys():
            if self.deltas[name].shape != other.deltas[name].shape:
                raise ValueError(
                    f"{name}: shape {tuple(self.deltas[name].shape)} in {self.concept!r}, "
                    f"{tuple(other.deltas[name].shape)} in {other.concept!r}"
                )


def _svd(delta: Delta) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a matrix, float64; of factors through their own small dimension."""
    if not isinstance(delta, Factors):
        return torch.linalg.svd(delta.double(), full_matrices=False)
    (left, upper), (right, lower) = torch.linalg.qr(delta.up.double()), torch.linalg.qr(delta.down.double().T)
    inner_left, scales, inner_right = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ inner_left, scales, inner_right @ right.T


def _cut(delta: Delta, left: torch.Tensor, scales: torch.Tensor, right: torch.Tensor, rank: int) -> Delta:
    """The first ``rank`` singular directions as factors, where that takes less room."""
    if rank * sum(delta.shape) >= math.prod(delta.shape):
        return _dense(delta)
    root = scales[:rank].sqrt()
    return Factors((left[:, :rank] * root).float().contiguous(), (root[:, None] * right[:rank]).float().contiguous())


def _beside(dtype: torch.dtype) -> torch.dtype:
    """Of numbers that are no factors, where those are of ``dtype``."""
    return torch.float16 if dtype == torch.int8 else dtype


def _rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """To ``dtype``, in float32."""
    return tensor.to(dtype).float()


def _factored(delta: Delta, tolerance: float) -> Delta:
    if isinstance(delta, Factors) or delta.ndim != 2:
        return delta
    left, scales, right = _svd(delta)
    # Energy of what would be cut off, from the smallest singular value up.
    tail = scales.square().flip(0).cumsum(0).flip(0).sqrt()
    rank = int((tail > tolerance * tail[0]).sum()) if tail[0] > 0 else 0
    return _cut(delta, left, scales, right, max(rank, 1))


def gram_factor(tokens: torch.Tensor, tolerance: float = 1e-4) -> torch.Tensor:
    """``(d, r)`` ``F`` with ``F Fᵀ = Eᵀ E`` for ``(n, d)`` token embeddings ``E``, to the numerical rank."""
    _, scales, rows = torch.linalg.svd(tokens.double(), full_matrices=False)
    rank = int((scales > tolerance * scales[0]).sum())
    return (rows[:rank].T * scales[:rank]).float().contiguous()
