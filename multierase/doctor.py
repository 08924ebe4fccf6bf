"""What this machine has of what multierase needs. Nothing is loaded, and nothing is downloaded."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from multierase.models.sources import EMBEDDED, INDEX, embedded_folder, is_path

NAME = "multierase"
# Of a pipeline's parts, those that no picture needs; many folders do without them.
SPARE = ("safety_checker", "feature_extractor", "image_encoder")
SHARDS = "*/*.index.json"
LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows
SECONDS = 10  # for nvidia-smi to answer


@dataclass(frozen=True)
class Package:
    """A package that multierase needs.

    Args:
        needed: the versions that do, such as ``>=2.6``.
        installed: the version that is here, or ``None``.
    """

    name: str
    needed: str
    installed: str | None

    @property
    def problem(self) -> str | None:
        """The problem with it and what to type, or ``None``."""
        if self.installed is None:
            what = f"{self.name} is missing"
        elif not SpecifierSet(self.needed).contains(self.installed, prereleases=True):
            what = f"{self.name} {self.installed} is here, and {self.needed} is needed"
        else:
            return None

        return f"{what}: pip install '{self.name}{self.needed}'"


@dataclass(frozen=True)
class Extra:
    """A set of optional packages.

    Args:
        lacking: those that are missing or too old; with none of them the extra is installed.
        install: what to type.
    """

    name: str
    lacking: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Machine:
    """The hardware.

    Args:
        cuda: the CUDA that torch was built for, or ``None``.
        gpus: by NVIDIA's own tool, each with its memory.
        visible: ``CUDA_VISIBLE_DEVICES``, if it is set.
        cores: that this process may use.
        threads: ``OMP_NUM_THREADS``, if it is set.
    """

    cuda: str | None
    gpus: tuple[str, ...]
    visible: str | None
    cores: int
    threads: str | None

    @property
    def device(self) -> str:
        """The device of a base by default: ``cuda`` or ``cpu``."""
        return "cuda" if self.cuda and self.gpus and self.visible not in ("", "-1") else "cpu"


@dataclass(frozen=True)
class Cache:
    """The folder of what was downloaded from the hub.

    Args:
        models: number of repositories.
        offline: whether nothing is downloaded (``HF_HUB_OFFLINE=1``).
    """

    folder: str
    bytes: int
    models: int
    offline: bool


@dataclass(frozen=True)
class Base:
    """A source of a base model.

    Args:
        kind: ``embedded``, ``folder``, ``file`` or ``hub id``.
        found: whether it is on this machine.
        place: where.
        problem: why it cannot be loaded, and what to do.
    """

    source: str
    kind: str
    found: bool
    place: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Examination:
    """All that was found; ``problems`` is what is broken, each with what to do."""

    version: str
    python: Package
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    machine: Machine
    cache: Cache
    base: Base
    problems: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        device = {"device": self.machine.device}

        return {**asdict(self), "machine": {**asdict(self.machine), **device}}


def examine(base: str = "emoji") -> Examination:
    """Look at Python, packages, extras, devices, the hub's cache and one base.

    Args:
        base: as for ``load_base``.
    """
    try:
        about = metadata.metadata(NAME)
    except metadata.PackageNotFoundError:
        about = None
    needed = about["Requires-Python"] if about and "Requires-Python" in about else ""
    python = Package("python", needed, platform.python_version())
    required = list(_required())
    packages = tuple(_package(one) for one in required if one.marker is None)
    cache, found = _cache(), find_base(base)

    problems = [] if about else [f"{NAME} is not installed: pip install . in its folder"]
    if python.problem:
        problems.append(f"Python {python.installed} is here, and {needed} is needed")
    problems += [package.problem for package in packages if package.problem]
    problems += [found.problem] if found.problem else []
    return Examination(
        version=about["Version"] if about else "",
        python=python,
        packages=packages,
        extras=tuple(_extra(name, required) for name in _extras(about)),
        machine=_machine(),
        cache=cache,
        base=found,
        problems=tuple(problems),
    )


def _required() -> Iterator[Requirement]:
    """Yield what the installed package declares; there is no second list."""
    try:
        declared = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return
    yield from map(Requirement, declared)


def _extras(about: Any) -> list[str]:
    return about.get_all("Provides-Extra") or [] if about else []


def _package(required: Requirement) -> Package:
    return Package(required.name, str(required.specifier), _installed(required.name))


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extra(name: str, required: list[Requirement]) -> Extra:
    lacking: list[str] = []
    for one in _members(name, required):
        package = _package(one)
        if package.problem:
            lacking.append(f"{package.name}{package.needed}")

    return Extra(name, tuple(lacking), f"pip install '{NAME}[{name}]'")


def _members(name: str, required: list[Requirement]) -> Iterator[Requirement]:
    """Yield what an extra asks for, also by way of another extra of ours."""
    for one in required:
        if one.marker is None or not one.marker.evaluate({"extra": name}):
            continue
        if one.name != NAME:
            yield one
        for other in sorted(one.extras) if one.name == NAME else ():
            yield from _members(other, required)


def _machine() -> Machine:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone

    return Machine(
        cuda=_cuda_of_torch(),
        gpus=tuple(_gpus()),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        threads=os.environ.get("OMP_NUM_THREADS"),
    )


def _cuda_of_torch() -> str | None:
    """Read what torch was built for in its file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    path = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if path is None or not path.is_file():
        return None

    for node in ast.parse(path.read_text("utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = [target.id for target in targets if isinstance(target, ast.Name)]
        if "cuda" in named and isinstance(getattr(node, "value", None), ast.Constant):
            return node.value.value  # type: ignore[attr-defined]
    return None


def _gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []

    asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def _cache() -> Cache:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    models = list(folder.glob("models--*"))

    return Cache(str(folder), _bytes_in(folder), len(models), constants.HF_HUB_OFFLINE)


def _bytes_in(folder: Path) -> int:
    """Sum up the files of a folder; links to them count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink() and path.is_file():
                total += path.stat().st_size

    return total


def find_base(source: str) -> Base:
    """Look for a base as ``load_base`` would, and load nothing."""
    path = Path(source).expanduser()
    if source in EMBEDDED:
        return _folder(source, "embedded", embedded_folder(source))
    if path.is_file():
        return Base(source, "file", True, str(path), _file_problem(path))
    if (path / INDEX).is_file():
        return _folder(source, "folder", path)

    if is_path(source):
        give = f"{list(EMBEDDED)}, a folder with {INDEX}, a .safetensors file or a hub id"
        return Base(source, "folder", False, None, f"no base at {source!r}: give one of {give}")
    return _on_hub(source)


def _on_hub(source: str) -> Base:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        index = try_to_load_from_cache(source, INDEX)
    except HFValidationError as error:
        return Base(source, "hub id", False, None, f"{source!r} is no hub id: {error}")
    if isinstance(index, str):
        return _folder(source, "hub id", Path(index).parent)

    problem = None
    if constants.HF_HUB_OFFLINE:
        problem = (
            f"{source!r} is not in the hub's cache, and HF_HUB_OFFLINE forbids to download it: "
            "unset it, or give a folder"
        )
    return Base(source, "hub id", False, None, problem)


def _folder(source: str, kind: str, folder: Path) -> Base:
    problem = None
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        lacking = sorted(_lacking(folder, index))
        if lacking:
            problem = f"{folder} lacks {', '.join(lacking)}: download or copy it again"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        problem = f"{folder / INDEX} cannot be read: {error!r}"

    return Base(source, kind, True, str(folder), problem)


def _lacking(folder: Path, index: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts and the files of weights that an index names and that are not there."""
    for name, value in index.items():
        used = isinstance(value, list) and value[0] is not None
        if used and name not in SPARE and not (folder / name).is_dir():
            yield f"{name}/"

    for path in folder.glob(SHARDS):
        shards = json.loads(path.read_text("utf-8"))["weight_map"].values()
        for shard in set(shards):
            if not path.with_name(shard).is_file():
                yield f"{path.parent.name}/{shard}"


def _file_problem(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            length, first = int.from_bytes(file.read(8), "little"), file.read(1)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"

    if first != b"{" or not 2 <= length <= LONGEST_HEADER:
        return f"{path} is no safetensors file: no other weights are read"
    return None
