"""What an increment file says of itself, read and checked without loading a tensor.

Every file is untrusted. What is wrong with one is an ``IncrementFileError`` and nothing else.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multierase.errors import FormatVersionError, IncrementFileError
from multierase.files import plain
from multierase.increments.fingerprint import ROUNDING, Fingerprint
from multierase.increments.layout import (
    STORED,
    Tags,
    Tensor,
    parameter_shapes,
    read_tensor,
    require_dtypes,
    require_grams,
    require_parameter,
    require_used,
)
from multierase.increments.provenance import Provenance, Taker
from multierase.models.scopes import FAMILIES

FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
METADATA_KEY = "multierase"
FAMILY_OF_FORMAT_1 = "stable-diffusion"
COMPONENT_OF_FORMAT_1 = "unet."
LARGEST_HEADER = 2**26


@dataclass(frozen=True)
class Header:
    """A sound header.

    Args:
        path: the file.
        format_version: 1 or 2.
        bytes: the file's size.
        sha256: the digest that it states; checked when the tensors are loaded.
        base, provenance, history, readers: see ``multierase.Increment``.
        stored: dtype in which the numbers are stored.
        tensors: by their names in the file.
        body: the metadata, as they are hashed.
    """

    path: Path
    format_version: int
    bytes: int
    sha256: str
    base: Fingerprint
    provenance: Provenance
    history: tuple[Mapping[str, Any], ...]
    readers: Mapping[str, str]
    stored: str
    tensors: Mapping[str, Tensor]
    body: Mapping[str, Any]

    @property
    def concept(self) -> str:
        """The concept's name."""
        return self.provenance.concept

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter that the increment changes, by the model's name for it."""
        stored = parameter_shapes(self.tensors, self.tags)

        return {self.parameter(name): shape for name, shape in stored.items()}

    def parameter(self, stored: str) -> str:
        """Return the model's name for a parameter of the file."""
        return COMPONENT_OF_FORMAT_1 + stored if self.format_version == 1 else stored

    @property
    def tags(self) -> Tags:
        return Tags.of_version(self.format_version, self.body.get("readers", {}))


def read_header(path: str | Path) -> Header:
    """Read and check the header of an increment file.

    Raises:
        FileNotFoundError: if there is no such file.
        FormatVersionError: for a format version that is not known.
        IncrementFileError: for anything that is not a whole and sound increment file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no increment file {path}")

    try:
        raw, size = _raw_header(path)
        body = _body(raw, path)
        return _checked(path, size, body, raw)
    except IncrementFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise IncrementFileError(
            f"{path} is not a sound increment file: {plain(error)[:300]}"
        ) from error


def _raw_header(path: Path) -> tuple[dict, int]:
    """Return safetensors' own header, and the file's size."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise IncrementFileError(
                f"{path} is not a whole safetensors file; it may be cut short, damaged, or a "
                "pickle under another name, and is not loaded"
            )
        text = file.read(length)

    try:
        raw = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise IncrementFileError(
            f"{path} is not a whole safetensors file: its header cannot be read ({plain(error)})"
        ) from error
    if not isinstance(raw, dict):
        raise IncrementFileError(f"{path} is not a safetensors file: its header is no object")

    _require_whole(path, raw, size - 8 - length)
    return raw, size


def _require_whole(path: Path, raw: dict, room: int) -> None:
    """Raise unless the tensors fill the rest of the file, one after another."""
    spans = []
    for name, entry in raw.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            spans.append((start, end))

    place = 0
    for start, end in sorted(spans):
        if start != place or end < start:
            break
        place = end
    if place != room or (spans and place != max(end for _, end in spans)):
        raise IncrementFileError(
            f"{path} is not a whole safetensors file: its "
            "tensors do not fill it, so it may be cut short"
        )


def _body(raw: dict, path: Path) -> dict:
    metadata = raw.get("__metadata__") or {}
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        raise IncrementFileError(
            f"{path} holds tensors but no increment: its metadata has no {METADATA_KEY!r} entry"
        )
    body = json.loads(metadata[METADATA_KEY], parse_constant=_refuse_constant)
    if not isinstance(body, dict):
        raise ValueError("its metadata is no object")

    version = body.get("format_version")
    if version not in READ_VERSIONS or isinstance(version, bool):
        raise FormatVersionError(
            f"{path} has format version {plain(repr(version))[:40]}, this multierase reads "
            f"{list(READ_VERSIONS)}: update multierase"
        )
    return body


def _checked(path: Path, size: int, body: dict, raw: dict) -> Header:
    version = body["format_version"]
    take = Taker(body, "metadata")
    sha256 = take("sha256", str)
    stored_base = take("base", dict)

    if version == 1:
        provenance = Provenance.from_format_1(body.get("info"))
        history = _history_of_format_1(body["info"])
        base = _fingerprint(stored_base, FAMILY_OF_FORMAT_1, COMPONENT_OF_FORMAT_1)
        readers = FAMILIES[FAMILY_OF_FORMAT_1].readers(base.digests)
    else:
        provenance = Provenance.from_dict(body.get("provenance"))
        history = _history(take("history", list))
        base = _fingerprint(stored_base, Taker(stored_base, "base")("family", str), "")
        readers = _readers(take("readers", dict), base)

    header = Header(
        path=path,
        format_version=version,
        bytes=size,
        sha256=sha256,
        base=base,
        provenance=provenance,
        history=history,
        readers=readers,
        stored=stored_as(history),
        tensors={n: read_tensor(n, entry) for n, entry in raw.items() if n != "__metadata__"},
        body={key: value for key, value in body.items() if key != "sha256"},
    )
    _require_layout(header)
    return header


def _history(listed: list) -> tuple[Mapping[str, Any], ...]:
    for step in listed:
        if not isinstance(step, dict) or not isinstance(step.get("step"), str):
            raise ValueError(f"history: {step!r:.60} is no step")

    return tuple(listed)


def _history_of_format_1(info: dict) -> tuple[Mapping[str, Any], ...]:
    compression = info.get("compression")
    if compression is None:
        return ()

    return _history([{"step": "compressed", **compression}])


def stored_as(history: tuple[Mapping[str, Any], ...]) -> str:
    """Return the dtype of a file's numbers: float32, unless they were compressed."""
    changes = [step for step in history if step["step"] != "renamed"]
    last = changes[-1] if changes else {"step": ""}
    if last["step"] != "compressed":
        return "float32"
    if last.get("dtype") not in STORED:
        raise ValueError(f"compression to {last.get('dtype')!r:.40}, known are {list(STORED)}")

    return last["dtype"]


def _fingerprint(stored: dict, family: str, prefix: str) -> Fingerprint:
    take = Taker(stored, "base")
    dtype, digests, sketches = take("dtype", str), take("digests", dict), take("sketches", dict)
    if dtype not in ROUNDING:
        raise ValueError(f"base.dtype is {dtype!r:.40}, known are {sorted(ROUNDING)}")
    if digests.keys() != sketches.keys():
        raise ValueError("base: digests and sketches are not of the same parameters")

    for name, digest in digests.items():
        require_parameter(name)
        if not isinstance(digest, str) or not 8 <= len(digest) <= 64:
            raise ValueError(f"base.digests: {digest!r:.40} is no digest")

    return Fingerprint(
        name=take("name", str),
        family=family,
        dtype=dtype,
        digests={prefix + name: digest for name, digest in digests.items()},
        sketches={prefix + name: _sketch(sketch) for name, sketch in sketches.items()},
    )


def _sketch(stored: object) -> tuple[float, float]:
    numbers = tuple(float(number) for number in stored) if isinstance(stored, list) else ()
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"base.sketches: {stored!r:.40} is no pair of numbers")

    return numbers


def _readers(stored: dict, base: Fingerprint) -> dict[str, str]:
    for name, stream in stored.items():
        if name not in base.digests or not isinstance(stream, str) or not stream.isidentifier():
            raise ValueError(f"readers: {name!r:.60} -> {stream!r:.40} is no parameter and stream")

    return stored


def _require_layout(header: Header) -> None:
    """Raise unless the tensors are those of the stated parameters, and nothing else."""
    shapes = header.shapes
    if shapes.keys() != header.base.digests.keys():
        differing = sorted(shapes.keys() ^ header.base.digests.keys())
        raise ValueError(f"tensors and fingerprint differ in {differing[:3]}")

    require_used(header.tensors, parameter_shapes(header.tensors, header.tags), header.tags)
    require_dtypes(header.tensors, header.stored)
    require_grams(header.tensors, shapes, header.readers, header.tags)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def digest_of(body: Mapping[str, Any]) -> bytes:
    """Return the metadata as they are hashed, before the tensors."""
    return json.dumps(body, sort_keys=True).encode()
