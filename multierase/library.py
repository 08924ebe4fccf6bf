"""A library: a folder of increment files, one a concept; and the file format, specified in docs/increment-file.md."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from multierase.base import Fingerprint
from multierase.concepts import Concept, TaggedPrompt
from multierase.decoupling import KeepList
from multierase.increments import Factors, Increment, suggest
from multierase.text import TextEncoder

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
METADATA_KEY = "multierase"
GRAM = "gram.factor"
SHARED = "shared.down"


class IncrementFileError(ValueError):
    """A file that is not a sound increment file, or not one for this base."""


def save_increment(increment: Increment, path: str | Path) -> Path:
    """Write an increment file: whole, or not at all. What was at ``path`` stays until the new file is complete.

    Raises:
        IncrementFileError: for values that are not finite, which no file may hold.
        OSError: where the disk is full or the folder cannot be written; the temporary file is removed.
    """
    path = Path(path)
    tensors = _tensors(increment)
    _require_finite(tensors, path)
    body = {
        "format_version": FORMAT_VERSION,
        "base": {
            "name": increment.base.name,
            "dtype": increment.base.dtype,
            "digests": dict(increment.base.digests),
            "sketches": {name: list(sketch) for name, sketch in increment.base.sketches.items()},
        },
        "info": dict(increment.info),
    }
    body["sha256"] = _sha256(tensors, body)
    # One key: safetensors writes several in no fixed order, and equal increments are to be equal files.
    metadata = {METADATA_KEY: json.dumps(body, sort_keys=True, allow_nan=False)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, flushed to the disk, if the body ends without an error."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_increment(path: str | Path) -> Increment:
    """Read and check an increment file.

    Raises:
        FileNotFoundError: where there is none.
        IncrementFileError: for anything that is not an increment file, is damaged, or holds values that are not finite.
    """
    path = Path(path)
    body, tensors = _read(path, with_tensors=True)
    stated = body.pop("sha256", None)
    if stated != _sha256(tensors, body):
        raise IncrementFileError(
            f"{path} is damaged: its contents do not have the SHA-256 that it states; restore a copy"
        )
    _require_finite(tensors, path)
    gram = tensors.pop(GRAM, None)
    try:
        return Increment(
            _deltas(tensors), _fingerprint(body["base"]), body["info"], None if gram is None else gram.float()
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IncrementFileError(f"{path} is not a sound increment file: {error}") from error


def read_info(path: str | Path) -> dict[str, Any]:
    """What an increment file says of itself, without its tensors: ``info``, ``base``, ``bytes`` and ``sha256``."""
    body, _ = _read(Path(path), with_tensors=False)
    own = {"base": body["base"]["name"], "bytes": Path(path).stat().st_size, "sha256": body.get("sha256")}
    return {**body["info"], **own}


def _read(path: Path, with_tensors: bool) -> tuple[dict, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"no increment file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise IncrementFileError(
            f"{path} is not a whole safetensors file ({error}); it may be cut short, damaged, or a pickle under "
            "another name, and is not loaded"
        ) from error
    if metadata is None:
        raise IncrementFileError(f"{path} holds tensors but no increment: its metadata has no {METADATA_KEY!r} entry")
    try:
        body = json.loads(metadata)
        version = body["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise IncrementFileError(f"{path} is damaged: its metadata cannot be read ({error!r})") from error
    if version != FORMAT_VERSION:
        raise IncrementFileError(
            f"{path} has format version {version}, this multierase reads {FORMAT_VERSION}: update multierase"
        )
    return body, tensors


def _tensors(increment: Increment) -> dict[str, torch.Tensor]:
    tensors = {}
    downs = [delta.down for delta in increment.deltas.values() if isinstance(delta, Factors)]
    # Keys and values share one basis of the text embedding; at Stable Diffusion's size it is half of their factors.
    shared = next((a for a, b in itertools.pairwise(downs) if torch.equal(a, b)), None)
    if shared is not None:
        tensors[SHARED] = shared.contiguous()
    for name, delta in increment.deltas.items():
        if isinstance(delta, Factors):
            tensors[f"{name}.up"] = delta.up.contiguous()
            if shared is None or not torch.equal(delta.down, shared):
                tensors[f"{name}.down"] = delta.down.contiguous()
        else:
            tensors[name] = delta.contiguous()
    if increment.gram is not None:
        tensors[GRAM] = increment.gram.contiguous()
    # Compressed numbers have been rounded already, so nothing is lost here.
    stated = increment.info.get("compression", {}).get("dtype", "float32")
    return {name: tensor.to(_stored(name, stated), copy=True) for name, tensor in tensors.items()}


def _stored(name: str, stated: str) -> torch.dtype:
    """Beside int8 ``up`` factors, their ``down`` carries the units and is float32; all else is float16."""
    if stated != "int8":
        return getattr(torch, stated)
    if name.endswith(".up"):
        return torch.int8
    return torch.float32 if name.endswith(".down") else torch.float16


def _deltas(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor | Factors]:
    deltas = {}
    tensors = {key: tensor.float() for key, tensor in tensors.items()}
    shared = tensors.pop(SHARED, None)
    for key, tensor in tensors.items():
        if key.endswith(".up"):
            name = key.removesuffix(".up")
            down = tensors.get(f"{name}.down", shared)
            if down is None:
                raise ValueError(f"{name} has one factor only: neither {name}.down nor {SHARED} is there")
            if tensor.ndim != 2 or down.ndim != 2 or tensor.shape[1] != down.shape[0]:
                raise ValueError(f"{name}: factors of shapes {tuple(tensor.shape)} and {tuple(down.shape)} do not fit")
            deltas[name] = Factors(tensor, down)
        elif not key.endswith(".down"):
            deltas[key] = tensor
    return deltas


def _fingerprint(stored: Mapping[str, Any]) -> Fingerprint:
    sketches = {name: tuple(sketch) for name, sketch in stored["sketches"].items()}
    return Fingerprint(stored["name"], stored["dtype"], stored["digests"], sketches)


def _sha256(tensors: Mapping[str, torch.Tensor], body: Mapping[str, Any]) -> str:
    """Over the metadata and every tensor's name, dtype, shape and bytes: any flipped bit shows."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy())
    return digest.hexdigest()


def _require_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    broken = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if broken:
        raise IncrementFileError(
            f"{path}: {len(broken)} of {len(tensors)} tensors hold NaN or infinity, the first {broken[0]!r}; an "
            "increment must be finite"
        )


def require_fits(
    increment: Increment, parameters: Mapping[str, torch.Tensor], known: Mapping[str, Fingerprint] | None = None
) -> None:
    """Raises ``IncrementFileError`` unless ``increment`` is one of these base weights': names, shapes and values.

    ``known``: fingerprints of single parameters, where they have been made already.
    """
    where = f"increment {increment.concept!r} (of base {increment.base.name!r})"
    unknown = sorted(increment.deltas.keys() - parameters.keys())
    if unknown:
        raise IncrementFileError(
            f"{where} changes {len(unknown)} parameters that this U-Net lacks, first {unknown[0]!r}"
        )
    for name, delta in increment.deltas.items():
        if delta.shape != parameters[name].shape:
            raise IncrementFileError(
                f"{where}: {name} has shape {tuple(delta.shape)}, this U-Net's has {tuple(parameters[name].shape)}"
            )
    known = known or {name: Fingerprint.of("this U-Net", {name: parameters[name]}) for name in increment.deltas}
    differing = [name for name in increment.deltas if increment.base.differing(known[name])]
    if differing:
        raise IncrementFileError(
            f"{where} was made for another base: {len(differing)} of {len(increment.deltas)} touched parameters have "
            f"other weights here, first {differing[0]!r}; load the base that it was erased from, or erase again"
        )


class Library(Mapping[str, Increment]):
    """A folder of increment files: a mapping from concept names to increments, read when asked for.

    Raises:
        FileNotFoundError: where there is no such folder, unless ``create``.
    """

    def __init__(self, folder: str | Path, *, create: bool = False):
        self.folder = Path(folder)
        if create:
            self.folder.mkdir(parents=True, exist_ok=True)
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"no library folder {self.folder}: `multierase erase --library {self.folder}` makes one"
            )
        self._loaded: dict[Path, tuple[tuple, Increment]] = {}

    def infos(self) -> dict[str, dict[str, Any]]:
        """Per concept what its file says of itself, sorted by name; damaged files raise."""
        infos = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            info = read_info(path)
            infos[info["concept"]] = {**info, "file": str(path)}
        return dict(sorted(infos.items()))

    def path(self, concept: str) -> Path:
        """Where the concept's file is or would be.

        Raises:
            ValueError: where another concept's file has that name.
        """
        path = self._file(concept)
        if path.exists() and (there := read_info(path).get("concept")) != concept:
            raise ValueError(f"{path} holds the concept {there!r}, so {concept!r} needs another name")
        return path

    def _file(self, concept: str) -> Path:
        return self.folder / f"{Concept(concept).slug}.safetensors"

    def save(self, increment: Increment) -> Path:
        """Store an increment under its concept's name, replacing an older one."""
        return save_increment(increment, self.path(increment.concept))

    def remove(self, concept: str) -> None:
        """Delete the concept's file. Raises ``KeyError`` where there is none."""
        self.require([concept])
        self.path(concept).unlink()

    def keep_list(self, text: TextEncoder, prompts: Sequence[TaggedPrompt]) -> KeepList:
        """``KeepList.of`` these prompts for the concepts here; the last one stays in the folder, as ``.keep``, for a
        text encoder takes minutes over a long list."""
        listed = [[tagged.prompt, *sorted(tagged.concepts)] for tagged in prompts]
        digest = hashlib.sha256(json.dumps([listed, sorted(self)]).encode())
        digest.update(text([""]).cpu().contiguous().view(torch.uint8).numpy().tobytes())  # of another text tower too
        path, key = self.folder / ".keep", digest.hexdigest()
        if (stored := _read_keep_list(path, key)) is not None:
            return stored
        keep = KeepList.of(text, prompts, self)
        tensors = {json.dumps(sorted(tags)): matrix.contiguous() for tags, matrix in keep.grams.items()}
        try:
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata={"key": key, "sha256": _sha256(tensors, {})})
        except OSError as error:  # a folder that may only be read is as good a library
            logger.warning("the keep-list is not kept for the next time: %s", error)
        return keep

    def require(self, concepts: list[str]) -> None:
        """Raises ``KeyError`` with the nearest match for every concept that is not in the library."""
        missing = [concept for concept in concepts if concept not in self]
        if missing:
            here = list(self)
            missing = [f"{concept!r}{suggest(concept, here)}" for concept in missing]
            raise UnknownConcept(f"not in library {self.folder}: {', '.join(missing)}; it holds {here}")

    def __getitem__(self, concept: str) -> Increment:
        self.require([concept])
        path = self.path(concept)
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if self._loaded.get(path, (None,))[0] != stamp:
            self._loaded[path] = (stamp, load_increment(path))
        return self._loaded[path][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos())

    def __len__(self) -> int:
        return len(self.infos())

    def __contains__(self, concept: object) -> bool:
        """Reads one file's header, not all of them."""
        if not isinstance(concept, str) or not concept.strip():
            return False
        path = self._file(concept)
        return path.is_file() and read_info(path).get("concept") == concept


def _read_keep_list(path: Path, key: str) -> KeepList | None:
    """``None`` where there is none, or another, or a damaged one: it is only a cache."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if metadata.get("key") == key else {}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    if not tensors or metadata.get("sha256") != _sha256(tensors, {}):
        return None
    return KeepList({frozenset(json.loads(name)): matrix for name, matrix in tensors.items()})


class UnknownConcept(KeyError):
    """A concept that the library does not hold."""

    def __str__(self) -> str:
        return self.args[0]
