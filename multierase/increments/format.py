"""The increment file, written and read; docs/increment-file.md specifies it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from multierase.errors import IncrementFileError
from multierase.files import digest_tensors, replacing
from multierase.increments.container import write_container
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.header import (
    FORMAT_VERSION,
    METADATA_KEY,
    Header,
    digest_of,
    read_header,
    stored_as,
)
from multierase.increments.layout import DOWN, GRAM, SHARED, UP, down_of, stored_dtype
from multierase.increments.value import Delta, Factors, Increment

Tensors = Mapping[str, torch.Tensor]


class Described(Protocol):
    """What has to fit a base: an increment, or a file's header."""

    @property
    def concept(self) -> str: ...

    @property
    def base(self) -> Fingerprint: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...


def save_increment(increment: Increment, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write an increment file, whole or not at all.

    Args:
        overwrite: whether a file that is there may be replaced.

    Raises:
        AlreadyThere: for a file that is there, unless ``overwrite``.
        IncrementFileError: for an increment that could not be read again, as with numbers that are
            not finite.
        WriteError: if the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    tensors = _tensors(increment)
    _require_finite(tensors, path)
    # One key: safetensors writes several in no fixed order, and equal increments are equal files.
    metadata = {METADATA_KEY: _metadata(increment, tensors)}

    with replacing(path, overwrite=overwrite) as temporary:
        write_container(temporary, tensors, metadata)
        _require_readable(temporary, path)
    return path


def _metadata(increment: Increment, tensors: Tensors) -> str:
    body = _body(increment)
    body["sha256"] = digest_tensors(tensors, prefix=digest_of(body))
    try:
        return json.dumps(body, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise IncrementFileError(
            f"increment {increment.concept!r} says of itself a number that is not finite, which no "
            "file may hold"
        ) from error


def _require_readable(temporary: Path, path: Path) -> None:
    """Raise if what was written would be refused by whoever reads it."""
    try:
        read_header(temporary)
    except IncrementFileError as error:
        reason = str(error).replace(str(temporary), str(path))
        raise IncrementFileError(f"not saved, for it could not be read again: {reason}") from error


def load_increment(path: str | Path) -> Increment:
    """Read and check an increment file of format 1 or 2.

    Raises:
        FileNotFoundError: if there is no such file.
        IncrementFileError: for anything that is not a whole and sound increment file.
    """
    return read_increment(read_header(path))


def read_increment(header: Header) -> Increment:
    """Do as ``load_increment``, for a file whose header has been read already."""
    stored = _read_tensors(header)
    tensors = {name: tensor.float() for name, tensor in stored.items()}
    _require_finite(tensors, header.path)

    grams = {}
    for name, stream in header.tags.grams.items():
        if name in tensors:
            grams[stream] = tensors.pop(name)

    return Increment(
        deltas=_deltas(header, tensors),
        base=header.base,
        provenance=header.provenance,
        grams=grams,
        readers=header.readers,
        history=header.history,
    )


def require_fits(
    increment: Described,
    parameters: Tensors,
    known: Mapping[str, Fingerprint] | None = None,
    *,
    family: str | None = None,
) -> None:
    """Check that an increment was made for these base weights, by names, shapes and values.

    Args:
        increment: an ``Increment``, or a ``Header``.
        parameters: the base's own weights, by their names.
        known: fingerprints of single parameters, where they have been made already.
        family: the model's.

    Raises:
        IncrementFileError: if it is not.
    """
    where = f"increment {increment.concept!r} (of base {increment.base.name!r})"
    if family not in (None, increment.base.family):
        raise IncrementFileError(
            f"{where} was made for a model of the family {increment.base.family!r}, and this one "
            f"is of {family!r}: erase {increment.concept!r} on this base"
        )
    shapes = increment.shapes
    unknown = sorted(shapes.keys() - parameters.keys())
    if unknown:
        raise IncrementFileError(
            f"{where} changes {len(unknown)} parameters that this model lacks, first {unknown[0]!r}"
        )

    for name, shape in shapes.items():
        here = tuple(parameters[name].shape)
        if shape != here:
            raise IncrementFileError(f"{where}: {name} has shape {shape}, this model's has {here}")

    known = known or fingerprints(parameters, shapes)
    differing = [name for name in shapes if increment.base.differing(known[name])]
    if differing:
        raise IncrementFileError(
            f"{where} was made for another base: {len(differing)} of {len(shapes)} touched "
            f"parameters have other weights here, first {differing[0]!r}; load the base that it "
            "was erased from, or erase again"
        )


def fingerprints(parameters: Tensors, names: Iterable[str]) -> dict[str, Fingerprint]:
    """Return the fingerprint of each of these parameters alone."""
    return {
        name: Fingerprint.of("this model", "", {name: parameters[name]}) for name in sorted(names)
    }


def _body(increment: Increment) -> dict[str, Any]:
    base = increment.base

    return {
        "format_version": FORMAT_VERSION,
        "base": {
            "name": base.name,
            "family": base.family,
            "dtype": base.dtype,
            "digests": dict(base.digests),
            "sketches": {name: list(sketch) for name, sketch in base.sketches.items()},
        },
        "provenance": increment.provenance.as_dict(),
        "history": [dict(step) for step in increment.history],
        "readers": dict(increment.readers),
    }


def _tensors(increment: Increment) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, in the dtypes that the history states."""
    shared = _shared_downs(increment)
    tensors = {f"{SHARED}{stream}{DOWN}": down for stream, down in shared.items()}
    tensors |= {GRAM + stream: gram for stream, gram in increment.grams.items()}

    for name, delta in increment.deltas.items():
        if not isinstance(delta, Factors):
            tensors[name] = delta
            continue
        tensors[name + UP] = delta.up
        common = shared.get(increment.readers.get(name, ""))
        if common is None or not torch.equal(delta.down, common):
            tensors[name + DOWN] = delta.down

    # Compressed numbers have been rounded already, so nothing is lost here.
    stated = stored_as(increment.history)
    stored = {}
    for name, tensor in tensors.items():
        dtype = getattr(torch, stored_dtype(name, stated))
        stored[name] = tensor.contiguous().to(dtype, copy=True)

    return stored


def _shared_downs(increment: Increment) -> dict[str, torch.Tensor]:
    """Return the ``down`` that a stream's readers share; it is half of their factors' numbers."""
    by_stream: dict[str, list[torch.Tensor]] = {}
    for name, stream in increment.readers.items():
        delta = increment.deltas[name]
        if isinstance(delta, Factors):
            by_stream.setdefault(stream, []).append(delta.down)

    shared = {}
    for stream, downs in by_stream.items():
        for a, b in itertools.pairwise(downs):
            if torch.equal(a, b):
                shared[stream] = a
                break

    return shared


def _read_tensors(header: Header) -> dict[str, torch.Tensor]:
    """Load a file's tensors, and check its digest."""
    path = header.path
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in header.tensors}
    except (SafetensorError, OSError) as error:
        raise IncrementFileError(f"{path} is not a whole safetensors file: {error}") from error

    if header.sha256 != digest_tensors(tensors, prefix=digest_of(header.body)):
        raise IncrementFileError(
            f"{path} is damaged: its contents do not have the SHA-256 that it "
            "states; restore a copy"
        )
    return tensors


def _deltas(header: Header, tensors: Tensors) -> dict[str, Delta]:
    deltas: dict[str, Delta] = {}
    for name, tensor in tensors.items():
        if name.endswith(UP):
            stored = name.removesuffix(UP)
            down = tensors[down_of(stored, tensors, header.tags)]
            deltas[header.parameter(stored)] = Factors(tensor, down)
        elif not name.endswith(DOWN):
            deltas[header.parameter(name)] = tensor

    return deltas


def _require_finite(tensors: Tensors, path: Path) -> None:
    broken = sorted(name for name, tensor in tensors.items() if not _is_finite(tensor))
    if broken:
        raise IncrementFileError(
            f"{path}: {len(broken)} of {len(tensors)} tensors hold NaN or infinity, the first "
            f"{broken[0]!r}; an increment must be finite"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    # The sum is as fast as memory; only if it is not finite is every number looked at.
    total = tensor.sum(dtype=torch.float32)

    return math.isfinite(total.item()) or bool(torch.isfinite(tensor).all())
