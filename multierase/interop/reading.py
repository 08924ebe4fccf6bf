"""Other tools' files, read safely: what they hold, by name. Nothing in them is executed."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from multierase.errors import WeightsFileError
from multierase.files import digest_bytes, digest_file, plain

SAFETENSORS, PICKLE, FOLDER = "safetensors", "torch pickle", "folder"
ZIP, PROTOCOL = b"PK\x03\x04", b"\x80"  # how torch's pickles begin, the new ones and the old
REFUSED = re.compile(r"(?:GLOBAL|[Uu]nsupported class|[Uu]nsupported operand) (\S+)")
DEEPEST = 4  # levels of a pickle's mappings that are looked at
PIPELINE, PART, ADAPTER = "model_index.json", "config.json", "adapter_config.json"
LARGEST_CONFIG = 2**20  # bytes

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Found:
    """What a file or a folder holds.

    Args:
        path: the file or folder.
        container: ``safetensors``, ``torch pickle`` or ``folder``.
        groups: by name the mappings of tensors that it holds, and under the empty name the tensors
            that are in none. Those of a folder are the parts of its pipeline.
        metadata: what it says of itself.
        sha256: digest of the file; of a folder, of all files that were looked at.
    """

    path: Path
    container: str
    groups: Mapping[str, Tensors]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def tensors(self) -> Tensors:
        """The tensors that are in no group."""
        return self.groups.get("", {})

    @property
    def count(self) -> int:
        """The number of all tensors."""
        return sum(map(len, self.groups.values()))

    def some_names(self) -> list[str]:
        """Return a few of its names, for a message."""
        names = []
        for group, tensors in self.groups.items():
            names += [f"{group}: {name}" if group else name for name in sorted(tensors)[:2]]

        return [plain(name)[:100] for name in names[:4]]


def read(path: str | Path) -> Found:
    """Read a file of weights, or a folder of them.

    Raises:
        FileNotFoundError: if there is nothing.
        WeightsFileError: for anything that is not whole, or is neither a safetensors file nor a
            torch pickle of plain tensors. A pickle that asks for anything else is refused, and
            nothing of it is executed.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"no file or folder {path} to import")

    groups, container, metadata = _read_file(path)
    for tensors in groups.values():
        _require_plain(path, tensors)
    return Found(path, container, groups, metadata, digest_file(path))


def _read_file(path: Path) -> tuple[dict[str, Tensors], str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            begin = file.read(9)
    except OSError as error:
        raise WeightsFileError(f"{path} cannot be read: {error.strerror}") from error

    if begin[8:9] == b"{":  # after the header's length
        return _stored(path)
    if begin.startswith((ZIP, PROTOCOL)):
        return _grouped(_unpickled(path)), PICKLE, {}

    raise WeightsFileError(
        f"{path} is neither a safetensors file nor a torch pickle: it begins with {begin[:8]!r}; "
        "give weights as one of these"
    )


def _stored(path: Path) -> tuple[dict[str, Tensors], str, dict[str, Any]]:
    """Return the tensors of a safetensors file; their numbers stay on the disk until needed."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return {"": tensors}, SAFETENSORS, dict(file.metadata() or {})
    except SafetensorError as error:
        raise WeightsFileError(f"{path} is not a whole safetensors file: {error}") from error
    except (AttributeError, TypeError, ValueError) as error:  # a dtype that torch does not have
        raise WeightsFileError(f"{path} cannot be read: {error}") from error


def _unpickled(path: Path) -> object:
    # By its name torch takes some for safetensors, which this is not.
    misnamed = path.suffix == ".safetensors"
    # Else numbers stay on the disk until they are used, where the file allows it.
    mapped = not misnamed and zipfile.is_zipfile(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer pickles; what cannot be read is an error
            source = file if misnamed else path
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        asked = REFUSED.search(str(error))
        if asked is None:
            raise WeightsFileError(f"{path} is not a whole torch pickle") from error
        raise WeightsFileError(
            f"{path} is a pickle that wants to run code, or holds more than tensors: it asks for "
            f"{plain(asked[1])[:80]!r}. That is refused, and nothing in it was executed; if you "
            "trust its author, save its weights as safetensors where it was made"
        ) from None
    except Exception as error:  # whatever a damaged file leads to
        raise WeightsFileError(
            f"{path} is not a whole torch pickle: {plain(error)[:200]}"
        ) from error


def _grouped(value: object) -> dict[str, Tensors]:
    """Return a pickle's tensors, those of each inner mapping in a group of its own."""
    if isinstance(value, torch.Tensor):
        return {"": {"": value}}

    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        if isinstance(inner, torch.Tensor) and isinstance(name, str):
            groups.setdefault("", {})[name] = inner
        elif isinstance(inner, Mapping) and isinstance(name, str):
            tensors = dict(_flat(inner, ""))
            if tensors:
                groups[name] = tensors

    return dict(groups)


def _flat(value: Mapping, prefix: str, depth: int = 1) -> Iterator[tuple[str, torch.Tensor]]:
    for name, inner in value.items():
        if not isinstance(name, str) or depth > DEEPEST:
            continue  # an optimiser's state, for one
        if isinstance(inner, torch.Tensor):
            yield prefix + name, inner
        elif isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.", depth + 1)


def _require_plain(path: Path, tensors: Tensors) -> None:
    """Raise ``WeightsFileError`` for tensors that are no plain numbers, each of them stored."""
    for name, tensor in tensors.items():
        strange = tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized
        if strange or tensor.is_meta:
            kind = f"{tensor.layout}, {tensor.dtype}"
            raise WeightsFileError(f"{path}: {plain(name)[:80]!r} is no plain tensor: {kind}")
        # A pickle of a few bytes may state any shape.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsFileError(
                f"{path}: {plain(name)[:80]!r} claims to have the shape {tuple(tensor.shape)}, and "
                "stores fewer numbers"
            )


def _read_folder(path: Path) -> Found:
    """Read the parts of a pipeline's folder, or the one part or file that the folder holds."""
    digests: list[str] = []
    config = next((name for name in (PIPELINE, ADAPTER, PART) if (path / name).is_file()), None)
    alone = _weight_files(path) if config is None else []
    if len(alone) == 1:
        return read(alone[0])

    metadata = _config(path / config) if config else {}
    groups: dict[str, Tensors] = {}
    if config == PIPELINE:
        for folder in sorted(inner for inner in path.iterdir() if inner.is_dir()):
            tensors = _part(folder, digests)
            if tensors:
                groups[folder.name] = tensors
    else:
        groups[""] = _part(path, digests)

    if not any(groups.values()):
        raise WeightsFileError(
            f"{path} is a folder without weights: give the folder of a pipeline, with its "
            f"{PIPELINE}, or of an adapter, with its {ADAPTER}, or a file"
        )
    return Found(path, FOLDER, groups, metadata, digest_bytes("\n".join(digests)))


def _part(folder: Path, digests: list[str]) -> Tensors:
    """Return the tensors of a part's files, all shards together."""
    tensors: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder):
        digests.append(f"{folder.name}/{path.name} {digest_file(path)}")
        groups, *_ = _read_file(path)
        shard = groups.get("", {})
        _require_plain(path, shard)
        twice = sorted(shard.keys() & tensors.keys())
        if twice:
            raise WeightsFileError(
                f"{folder} holds {plain(twice[0])[:80]!r} in two files: give one file of them"
            )
        tensors |= shard

    return tensors


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of weights: safetensors if there are any, and of one variant."""
    for suffix in (".safetensors", ".bin"):
        by_variant: dict[str, list[Path]] = {}
        for path in sorted(folder.glob(f"*{suffix}")):
            # "model.fp16.safetensors"; the plain one comes first.
            by_variant.setdefault(path.name.removesuffix(suffix).partition(".")[2], []).append(path)
        if by_variant:
            return by_variant[min(by_variant)]

    return []


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"it has more than {LARGEST_CONFIG} bytes")
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(read, dict):
        raise WeightsFileError(f"{path} is no configuration: it is no object")

    return read
