"""safetensors' own header, read strictly: what it leaves open is refused here.

A digest covers an increment's metadata and tensors, not the container around them. So nothing may
stand in the container that the digest does not cover, and nothing may be read in two ways.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# As safetensors calls them; an increment's own numbers have fewer.
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "int64": "I64"}
BYTES = {"F32": 4, "F16": 2, "I8": 1}
LARGEST_HEADER = 2**24  # Stable Diffusion's longest is 1 MB
LONGEST_NAME = 512
MOST_DIMENSIONS = 8
LARGEST_INTEGER = 2**64  # a seed has 64 bits
MOST_MARKS = {b"{": 2**17, b"[": 2**17, b",": 2**20}  # more of them take seconds, and gigabytes
DEEPEST = 32  # levels of JSON: more of them overflow the stack of whoever compares or copies it
METADATA = "__metadata__"
CUT = "it may be cut short, damaged, or a pickle under another name"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: its dtype as safetensors writes it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Container:
    """A safetensors file without the tensors' values.

    Args:
        size: bytes of the file.
        metadata: text by key.
        tensors: by name.
    """

    size: int
    metadata: dict[str, str]
    tensors: dict[str, Tensor]


def read_container(path: Path) -> Container:
    """Read a safetensors file's header, and check that its tensors fill the file.

    Raises:
        ValueError: for anything else than a whole file.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= size - 8:
            raise ValueError(f"it is not a whole safetensors file: {CUT}")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header has {length} bytes, at most {LARGEST_HEADER} are read")
        text = file.read(length)
    _require_few(text)

    try:
        entries = strict_json(text.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"it is not a whole safetensors file ({error}): {CUT}") from error
    if not isinstance(entries, dict):
        raise ValueError("it is not a safetensors file: its header is no object")

    metadata = entries.pop(METADATA, {})
    _require_whole(entries, size - 8 - length)
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}

    return Container(size, _texts(metadata), tensors)


def write_container(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file, byte for byte as that library does.

    The library itself writes to a temporary file of its own, which nobody would collect, and
    several entries of metadata in no fixed order.

    Args:
        tensors: on the CPU.
    """
    entries: dict[str, Any] = {METADATA: metadata}
    place = 0
    for name in _widest_first(tensors):
        tensor = tensors[name]
        end = place + tensor.nbytes
        dtype = CODES[str(tensor.dtype).removeprefix("torch.")]
        entries[name] = {"dtype": dtype, "shape": [*tensor.shape], "data_offsets": [place, end]}
        place = end

    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for part in stored_bytes(tensors):
            file.write(part)


def stored_bytes(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """Yield the bytes of the tensors, in the order in which a file has them."""
    import torch

    for name in _widest_first(tensors):
        # Numpy has no bfloat16.
        flat = tensors[name].detach().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _widest_first(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def strict_json(text: str) -> Any:
    """Parse JSON that can be read in one way only, and that is safe to handle.

    Raises:
        ValueError: for text that is not JSON; a key that an object has twice; a number that is not
            finite or has more than 64 bits; more than 32 levels.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_constant=_refused_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except RecursionError:
        raise ValueError(f"it has more than {DEEPEST} levels") from None

    _require_shallow(value)
    return value


def require_name(name: str) -> None:
    """Raise ``ValueError`` for a name that no parameter or tensor can have."""
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"{name!r:.60} is no parameter's name")


def _require_few(text: bytes) -> None:
    for mark, most in MOST_MARKS.items():
        if text.count(mark) > most:
            raise ValueError(f"its header has more than {most} {mark.decode()!r}")


def _require_whole(entries: dict[str, Any], room: int) -> None:
    """Raise unless the tensors fill the rest of the file, one after another."""
    spans = []
    for name, entry in entries.items():
        require_name(name)
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry of tensor {name!r:.60} is not dtype, shape, data_offsets")
        span = entry["data_offsets"]
        if not isinstance(span, list) or len(span) != 2 or not all(map(_is_count, span)):
            raise ValueError(f"tensor {name!r:.60} has data offsets {span!r:.60}")
        spans.append(span)

    place = 0
    for start, end in sorted(spans):
        if start != place:
            raise ValueError(
                "it is not a whole safetensors file: its tensors overlap, or have gaps"
            )
        place = end
    if place != room:
        raise ValueError(
            f"it is not a whole safetensors file: its tensors take {place} bytes of {room}; {CUT}"
        )


def _tensor(name: str, entry: dict[str, Any]) -> Tensor:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise ValueError(f"tensor {name!r:.60} has dtype {dtype!r:.20}, known are {sorted(BYTES)}")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= MOST_DIMENSIONS
        or not all(_is_count(side) and side > 0 for side in shape)
    ):
        raise ValueError(f"tensor {name!r:.60} has shape {shape!r:.40}: a parameter has dimensions")

    start, end = entry["data_offsets"]
    if end - start != BYTES[dtype] * math.prod(shape):
        raise ValueError(f"tensor {name!r:.60}: {end - start} bytes are not {dtype} of {shape}")
    return Tensor(dtype, tuple(shape))


def _texts(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is no object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(f"its metadata's {key!r:.60} is no text")

    return metadata


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"{counts.most_common(1)[0][0]!r:.60} is there twice")

    return entries


def _refused_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is too large a number")

    return number


def _bounded(text: str) -> int:
    # Longer numbers are not even converted: that takes time with the square of their length.
    number = int(text) if len(text) <= 20 else LARGEST_INTEGER
    if abs(number) >= LARGEST_INTEGER:
        raise ValueError(f"{text:.20}... has more than 64 bits")

    return number


def _require_shallow(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inside: list[Any] = []
        for one in level:
            values = one.values() if isinstance(one, dict) else one
            inside += [inner for inner in values if type(inner) in (dict, list)]
        level = inside
        if not level:
            return

    raise ValueError(f"it has more than {DEEPEST} levels")
