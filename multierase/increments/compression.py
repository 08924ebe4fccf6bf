"""Make an increment smaller, within a stated error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from multierase.increments.value import (
    Delta,
    Factors,
    Increment,
    dense,
    gram_factor,
    squared_norm,
    times,
)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
ATTEMPTS = 4  # at an error that rounding, known only afterwards, has a part in
WIDE = 2048  # inputs of a layer from which on its square is made only if nothing smaller will do
LARGE = 2**24  # numbers from which on a product of factors is not made to be measured


def compress(increment: Increment, error: float, dtype: torch.dtype = torch.float16) -> Increment:
    """Cut an increment to few numbers that lose at most ``error`` of its Frobenius norm.

    Parameters that read one stream all have the same input. They are cut as one stacked matrix, and
    share its right singular vectors as ``down``; every other matrix has its own. Singular values
    that carry the least per stored number are dropped first. Then the numbers are
    rounded to ``dtype``, in which they are stored. With int8 the ``up`` factors, which are most of
    the numbers, are whole multiples of a unit for each column; ``down`` factors have the units in
    them and stay float32, and the rest is float16. Vectors and convolutions are only rounded. A
    Gram factor loses the directions with less than ``error`` of its largest singular value.

    The history's entry ``compressed`` tells the measured error, rounding included.

    Raises:
        ValueError: for an error that is not within 0 and 1, or too small for the precision; for a
            dtype that no file has; for an increment that is not finite.
    """
    if name_of(dtype) not in DTYPES:
        raise ValueError(f"cannot store {name_of(dtype)}: give one of {sorted(DTYPES)}")
    if not 0 <= error < 1:
        raise ValueError(
            f"error is {error}, give a share of the increment's norm: 0 or more and less than 1"
        )

    deltas, measured = _within(increment, error, dtype)
    step = {"step": "compressed", "error": measured, "allowed": error, "dtype": name_of(dtype)}
    grams = {
        stream: _rounded(gram_factor(gram.T, tolerance=max(error, 1e-4)), beside(dtype))
        for stream, gram in increment.grams.items()
    }

    return replace(increment, deltas=deltas, grams=grams, history=(*increment.history, step))


def name_of(dtype: torch.dtype) -> str:
    """Return ``"float16"``."""
    return str(dtype).removeprefix("torch.")


def beside(dtype: torch.dtype) -> torch.dtype:
    """Return the storage dtype of tensors that are not factors."""
    return torch.float16 if dtype == torch.int8 else dtype


def _within(
    increment: Increment, error: float, dtype: torch.dtype
) -> tuple[dict[str, Delta], float]:
    """Return smaller deltas, and the error that they make: at most the one that is allowed."""
    norm, budget = increment.norm(), error**2
    if not math.isfinite(norm):
        raise ValueError(f"{increment.concept!r} is not finite, so it cannot be compressed")

    for _ in range(ATTEMPTS):
        deltas = _cut(increment, budget * norm**2, dtype)
        measured = _distance(increment, deltas) / norm if norm else 0.0
        if measured <= error + 1e-9:
            return deltas, measured

        # Rounding has a part in the error too: so much less may be cut.
        budget = max(budget - 1.5 * (measured**2 - error**2), 0.0)

    raise ValueError(
        f"{increment.concept!r}: {name_of(dtype)} alone loses {measured:.1e} of it, more than the "
        f"{error} that is allowed: allow more, or keep float32"
    )


def _distance(increment: Increment, deltas: Mapping[str, Delta]) -> float:
    lost = 0.0
    for name, delta in deltas.items():
        lost += squared_distance(increment.deltas[name], delta)

    return math.sqrt(lost)


def squared_distance(a: Delta, b: Delta) -> float:
    """Return ``‖a − b‖²``; that of large products of factors without making them."""
    if isinstance(a, Factors) and isinstance(b, Factors) and math.prod(a.shape) > LARGE:
        up, down = torch.cat([a.up, -b.up], dim=1), torch.cat([a.down, b.down])
        return squared_norm(Factors(up, down))

    return (dense(b) - dense(a)).double().square().sum().item()


@dataclass(frozen=True)
class Stack:
    """Matrices that are cut together, because they have one input.

    Args:
        names: their parameters.
        squares: squares of the stacked matrix's singular values, falling.
        vectors: its right singular vectors, as columns.
        cost: numbers that one singular direction takes.
    """

    names: list[str]
    squares: torch.Tensor
    vectors: torch.Tensor
    cost: int

    @property
    def worth(self) -> torch.Tensor:
        """What each direction carries for the numbers it takes."""
        return self.squares / self.cost


def _cut(increment: Increment, lost: float, dtype: torch.dtype) -> dict[str, Delta]:
    """Leave out singular values whose squares add up to ``lost``, and round to ``dtype``."""
    deltas: dict[str, Delta] = {}
    for name, delta in increment.deltas.items():
        if len(delta.shape) != 2:
            deltas[name] = _rounded(dense(delta), beside(dtype))

    stacks = _stacks(increment)
    least = _least_worth(stacks, lost)
    for stack in stacks:
        rank = max(int((stack.worth > least).sum()), 1)
        deltas |= _truncated(increment, stack, rank, dtype)

    return deltas


def _stacks(increment: Increment) -> list[Stack]:
    together: dict[str, list[str]] = {}
    for name, delta in increment.deltas.items():
        if len(delta.shape) == 2:
            together.setdefault(increment.readers.get(name, name), []).append(name)

    # Readers first, so that the order of equal values is the files'.
    ordered = sorted(together.values(), key=lambda names: names[0] not in increment.readers)
    return [_stack(increment, names) for names in ordered]


def _stack(increment: Increment, names: list[str]) -> Stack:
    deltas = [increment.deltas[name] for name in names]
    width = deltas[0].shape[1]
    basis = _inputs(deltas) if width > WIDE else None

    total = torch.zeros((), dtype=torch.float64)
    for delta in deltas:
        if isinstance(delta, Factors):
            up, down = delta.up.double(), _within_basis(delta.down, basis)
            total = total + down.T @ (up.T @ up) @ down
        else:
            part = _within_basis(delta, basis)
            total = total + part.T @ part

    squares, vectors = torch.linalg.eigh(total)
    vectors = vectors if basis is None else basis @ vectors
    rows = sum(delta.shape[0] for delta in deltas)
    return Stack(names, squares.flip(0).clamp_min(0), vectors.flip(1), rows + width)


def _inputs(deltas: Sequence[Delta]) -> torch.Tensor | None:
    """Return an orthonormal basis ``(in, k)`` of the inputs that are read; ``None`` if it is all.

    A wide layer's increment has few of them, and the square of its width would not fit into memory.
    """
    read = [delta.down if isinstance(delta, Factors) else delta for delta in deltas]
    if sum(len(rows) for rows in read) >= read[0].shape[1]:
        return None

    return torch.linalg.qr(torch.cat(read).double().T).Q


def _within_basis(rows: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
    return rows.double() if basis is None else rows.double() @ basis


def _least_worth(stacks: Sequence[Stack], lost: float) -> float:
    """Return the worth of the last direction that is left out."""
    if not stacks:
        return -1.0

    squares = torch.cat([stack.squares for stack in stacks])
    worth = torch.cat([stack.worth for stack in stacks])
    order = worth.argsort()
    dropped = int((squares[order].cumsum(0) <= lost).sum())

    return worth[order[dropped - 1]].item() if dropped else -1.0


def _truncated(
    increment: Increment, stack: Stack, rank: int, dtype: torch.dtype
) -> dict[str, Delta]:
    """Keep the first ``rank`` directions as factors, if that takes less room than all of it."""
    shapes = [increment.deltas[name].shape for name in stack.names]
    if rank * stack.cost >= sum(map(math.prod, shapes)):
        return {name: _rounded(increment.dense(name), beside(dtype)) for name in stack.names}

    # Half of a singular value's size goes to either factor. A matrix of zeros has a direction too,
    # whose inverse must be finite in float32.
    tiny = torch.finfo(torch.float32).tiny ** 4
    root = stack.squares[:rank].clamp_min(tiny).sqrt().sqrt()
    vectors = stack.vectors[:, :rank]
    down = (root * vectors).T.float().contiguous()
    ups = {name: times(increment.deltas[name], (vectors / root).float()) for name in stack.names}

    if dtype == torch.int8:
        largest = torch.cat(list(ups.values())).abs().amax(dim=0)
        unit = largest.clamp_min(torch.finfo(torch.float32).tiny) / 127
        ups = {name: (up / unit).round() for name, up in ups.items()}
        down = down * unit[:, None]
    else:
        ups = {name: _rounded(up, dtype) for name, up in ups.items()}
        down = _rounded(down, dtype)

    return {name: Factors(up, down) for name, up in ups.items()}


def _rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round to ``dtype``, in float32."""
    return tensor.to(dtype).float()
