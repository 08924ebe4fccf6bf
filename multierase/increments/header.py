"""What an increment file says of itself, read and checked without loading a tensor.

Every file is untrusted. Anything wrong with one raises ``IncrementFileError``, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multierase.errors import FormatVersionError, IncrementFileError
from multierase.files import plain
from multierase.increments.container import (
    Container,
    Tensor,
    read_container,
    require_name,
    strict_json,
)
from multierase.increments.fingerprint import ROUNDING, Fingerprint
from multierase.increments.layout import (
    STORED,
    Tags,
    parameter_shapes,
    require_dtypes,
    require_grams,
    require_used,
)
from multierase.increments.provenance import Provenance, Taker, require_known
from multierase.models.scopes import COMPONENT_OF_FORMAT_1, FAMILIES, FAMILY_OF_FORMAT_1

FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
METADATA_KEY = "multierase"
ENTRIES = {"base", "format_version", "history", "provenance", "readers", "sha256"}
ENTRIES_OF_BASE = {"digests", "dtype", "family", "name", "sketches"}
DIGEST = re.compile(r"[0-9a-f]{8,64}")

History = tuple[Mapping[str, Any], ...]


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
        tags: which of them are no parameter's own.
        body: the metadata, as they are hashed.
    """

    path: Path
    format_version: int
    bytes: int
    sha256: str
    base: Fingerprint
    provenance: Provenance
    history: History
    readers: Mapping[str, str]
    stored: str
    tensors: Mapping[str, Tensor]
    tags: Tags
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


def read_header(path: str | Path) -> Header:
    """Read and check the header of an increment file.

    Raises:
        FileNotFoundError: if there is no such file.
        FormatVersionError: for a format version that is not known.
        IncrementFileError: for anything that is not a whole and sound increment file.
    """
    path = Path(path)
    if not os.path.isfile(path):  # a pipe would be waited for
        if os.path.lexists(path):
            raise IncrementFileError(f"{path} is no file: it is a folder, a pipe or a broken link")
        raise FileNotFoundError(f"no increment file {path}")

    try:
        container = read_container(path)
        body = _body(container)
        return _checked(path, container, body)
    except IncrementFileError as error:
        raise type(error)(f"{path} {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise IncrementFileError(
            f"{path} is not a sound increment file: {plain(error)[:300]}"
        ) from error


def _body(container: Container) -> dict[str, Any]:
    """Return the metadata, once their version is known to be one that is read."""
    if METADATA_KEY not in container.metadata:
        raise IncrementFileError(
            f"holds tensors but no increment: its metadata has no {METADATA_KEY!r} entry"
        )
    others = sorted(container.metadata.keys() - {METADATA_KEY})
    if others:
        raise ValueError(f"its metadata has an entry {others[0]!r:.60} beside {METADATA_KEY!r}")

    body = strict_json(container.metadata[METADATA_KEY])
    if not isinstance(body, dict):
        raise ValueError("its metadata is no object")
    version = body.get("format_version")
    if type(version) is not int or version not in READ_VERSIONS:
        raise FormatVersionError(
            f"has format version {version!r:.40}, this multierase reads {list(READ_VERSIONS)}: "
            "update multierase"
        )

    return body


def _checked(path: Path, container: Container, body: dict[str, Any]) -> Header:
    parts = _parts_of_format_1(body) if body["format_version"] == 1 else _parts(body, container)
    base, provenance, history, readers, tags = parts

    header = Header(
        path=path,
        format_version=body["format_version"],
        bytes=container.size,
        sha256=Taker(body, "metadata")("sha256", str),
        base=base,
        provenance=provenance,
        history=history,
        readers=readers,
        stored=stored_as(history),
        tensors=container.tensors,
        tags=tags,
        body={key: value for key, value in body.items() if key != "sha256"},
    )
    _require_layout(header)
    return header


Parts = tuple[Fingerprint, Provenance, History, Mapping[str, str], Tags]


def _parts(body: dict[str, Any], container: Container) -> Parts:
    require_known(body, ENTRIES, "metadata")
    take = Taker(body, "metadata")
    stored_base = take("base", dict)
    require_known(stored_base, ENTRIES_OF_BASE, "base")

    family = Taker(stored_base, "base")("family", str)
    base = _fingerprint(stored_base, family, prefix="")
    readers = _readers(take("readers", dict), base)

    return (
        base,
        Provenance.from_dict(body.get("provenance")),
        _history(take("history", list)),
        readers,
        Tags.of_format_2(container.tensors, readers),
    )


def _parts_of_format_1(body: dict[str, Any]) -> Parts:
    """Read what format 1 left to its one family: the names' component, and who reads the text."""
    take = Taker(body, "metadata")
    info = take("info", dict)
    base = _fingerprint(take("base", dict), FAMILY_OF_FORMAT_1, prefix=COMPONENT_OF_FORMAT_1)

    return (
        base,
        Provenance.from_format_1(info),
        _history_of_format_1(info),
        FAMILIES[FAMILY_OF_FORMAT_1].readers(base.digests),
        Tags.of_format_1(),
    )


def _history(listed: list) -> History:
    for step in listed:
        if not isinstance(step, dict) or not isinstance(step.get("step"), str):
            raise ValueError(f"history: {step!r:.60} is no step")

    return tuple(listed)


def _history_of_format_1(info: dict) -> History:
    compression = info.get("compression")
    if compression is None:
        return ()
    if not isinstance(compression, dict):
        raise ValueError(f"info.compression is {compression!r:.60}")

    return ({**compression, "step": "compressed"},)


def stored_as(history: History) -> str:
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
        require_name(name)
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise ValueError(f"base.digests: {digest!r:.40} is no digest")

    return Fingerprint(
        name=take("name", str),
        family=family,
        dtype=dtype,
        digests={prefix + name: digest for name, digest in digests.items()},
        sketches={prefix + name: _sketch(sketch) for name, sketch in sketches.items()},
    )


def _sketch(stored: object) -> tuple[float, float]:
    if not isinstance(stored, list) or len(stored) != 2:
        raise ValueError(f"base.sketches: {stored!r:.40} is no pair of numbers")
    if not all(type(number) in (int, float) for number in stored):
        raise ValueError(f"base.sketches: {stored!r:.40} is no pair of numbers")

    return float(stored[0]), float(stored[1])


def _readers(stored: dict, base: Fingerprint) -> dict[str, str]:
    """Check that every stated reader reads that stream: composing relies on it."""
    if base.family not in FAMILIES:
        raise ValueError(
            f"it is of family {base.family!r:.60}, known are {sorted(FAMILIES)}: update multierase"
        )

    family = FAMILIES[base.family]
    for name, stream in stored.items():
        if name not in base.digests or stream is None or family.reads(name) != stream:
            raise ValueError(f"readers: {name!r:.60} does not read {stream!r:.40} alone")
    return stored


def _require_layout(header: Header) -> None:
    """Raise unless the tensors are those of the stated parameters, and nothing else."""
    shapes = header.shapes
    if not shapes:
        raise ValueError("it changes no parameter")
    if shapes.keys() != header.base.digests.keys():
        differing = sorted(shapes.keys() ^ header.base.digests.keys())
        raise ValueError(f"tensors and fingerprint differ in {differing[:3]}")

    require_used(header.tensors, parameter_shapes(header.tensors, header.tags), header.tags)
    require_dtypes(header.tensors, header.stored)
    require_grams(header.tensors, shapes, header.readers, header.tags)


def digest_of(body: Mapping[str, Any]) -> bytes:
    """Return the metadata as they are hashed, before the tensors."""
    return json.dumps(body, sort_keys=True).encode()
