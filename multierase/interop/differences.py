"""What another tool's weights add to a base's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from multierase.errors import WeightsFileError
from multierase.increments.value import Delta, Factors, dense, squared_norm
from multierase.interop.naming import Names
from multierase.interop.sources.peer import Absolute, Peer, coarser
from multierase.models.model import Model


@dataclass(frozen=True)
class Differences:
    """What a file changes of a base.

    Args:
        deltas: by parameter, those that are not zero.
        named: the parameters that the file holds.
        dtype: in which whole weights were compared, or that of a file's factors.
        size: ``‖Δ‖ / ‖W0‖`` over the parameters that are changed.
    """

    deltas: Mapping[str, Delta]
    named: frozenset[str]
    dtype: str
    size: float


def differences(model: Model, names: Names, peer: Peer, refined: Peer | None) -> Differences:
    """Return what a file adds to the base.

    Whole weights are compared in the coarser of both precisions: so what a training has left as it
    was is exactly zero, and the base's rounding is no part of the difference.

    Args:
        refined: the whole model that a relative file belongs to.

    Raises:
        WeightsFileError: for another architecture, numbers that are not finite, or a file that
            changes nothing.
    """
    for one in (peer, refined):
        if one is not None:
            _require_known(model, one)

    base = {name: weight.detach().cpu() for name, weight in model.parameters().items()}
    changed: dict[str, Delta] = {}
    dtypes: set[torch.dtype] = set()
    for one in (refined, peer):
        if one is not None and one.weights is not None:
            changed |= _compared(one.weights, base, dtypes)
    for name, delta in peer.deltas.items():
        changed[name] = dense(changed[name]) + dense(delta) if name in changed else delta
        dtypes.add(peer.dtype)

    deltas = {name: delta for name, delta in sorted(changed.items()) if squared_norm(delta)}
    _require_finite(changed)
    if not deltas:
        raise WeightsFileError(
            f"its weights are the base's own: it changes nothing of {model.name!r}"
        )
    moved = sum(squared_norm(delta) for delta in deltas.values())
    whole = sum(base[name].double().square().sum().item() for name in deltas)
    dtype = max(dtypes, key=lambda one: torch.finfo(one).eps)

    return Differences(
        deltas=deltas,
        named=frozenset([*peer.deltas, *(peer.weights.parameters if peer.weights else ())]),
        dtype=str(dtype).removeprefix("torch."),
        size=(moved / whole) ** 0.5 if whole else 0.0,
    )


def _compared(
    weights: Absolute, base: Mapping[str, torch.Tensor], dtypes: set[torch.dtype]
) -> dict[str, Delta]:
    """Return ``W_file - W0`` in float32, of parameters that differ."""
    found: dict[str, Delta] = {}
    for name, stored in weights:
        own = base[name]
        if not stored.is_floating_point() or stored.layout != torch.strided:
            raise WeightsFileError(f"{name} is stored as {stored.dtype}: no weights are")
        dtype = coarser(stored.dtype, own.dtype)
        dtypes.add(dtype)
        theirs, ours = stored.to(dtype), own.to(dtype)
        if not torch.equal(theirs, ours):
            found[name] = theirs.float() - ours.float()

    return found


def _require_known(model: Model, peer: Peer) -> None:
    known = len(peer.weights) if peer.weights is not None else 0
    known += len(peer.deltas)
    if known and not peer.unknown:
        return
    if not peer.unknown:
        raise WeightsFileError(
            "it holds nothing of a denoiser; increments change the denoiser alone"
        )

    raise WeightsFileError(
        f"{len(peer.unknown)} of its names are no layer's of {model.name!r} (of the family "
        f"{model.family!r}), first {sorted(peer.unknown)[:3]}, and {known} are: it was made for a "
        "model of another architecture; load the base that it was made for (--base)"
    )


def _require_finite(deltas: Mapping[str, Delta]) -> None:
    for name, delta in deltas.items():
        parts = (delta.up, delta.down) if isinstance(delta, Factors) else (delta,)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise WeightsFileError(f"{name} has numbers that are not finite")
