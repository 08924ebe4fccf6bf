"""What the benchmarks share: resumable results, and where they were measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import diffusers
import torch

import multierase
from multierase.base import Base
from multierase.concepts import Concept
from multierase.library import Library, replacing
from multierase.training import EraseSettings, erase


def environment() -> dict:
    """Commit, machine and versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit, "machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(),
        "torch": torch.__version__, "diffusers": diffusers.__version__, "multierase": multierase.__version__,
    }  # fmt: skip


def parser(doc: str) -> argparse.ArgumentParser:
    """What benchmarks that share their work between processes take."""
    arguments = argparse.ArgumentParser(description=doc.splitlines()[0])
    arguments.add_argument("--out", type=Path, required=True, help="results, and where to go on from")
    arguments.add_argument("--shard", default="0/1", help="i/n: do every n-th piece only, from the i-th")
    arguments.add_argument("--threads", type=int, default=1)
    return arguments


class Results:
    """Results by key, kept in ``<out>.partial-<shard>`` after each, so that a killed benchmark goes on."""

    def __init__(self, out: Path, shard: str):
        self.out = out
        self.own = out.with_name(f"{out.name}.partial-{shard.replace('/', '-')}")
        out.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict] = {}
        for path in out.parent.glob(f"{out.name}.partial-*"):
            self.done.update(json.loads(path.read_text()))
        self.mine = json.loads(self.own.read_text()) if self.own.exists() else {}

    def get(self, key: str, compute: Callable[[], dict]) -> dict:
        if key not in self.done:
            self.done[key] = self.mine[key] = compute()
            with replacing(self.own) as temporary:
                temporary.write_text(json.dumps(self.mine))
        return self.done[key]

    def finish(self, report: dict, *, keep: bool = False) -> None:
        """Write the report, print it, and drop the single results, unless they are kept to go on from."""
        report = {**report, "environment": environment()}
        with replacing(self.out) as temporary:
            temporary.write_text(json.dumps(report, indent=1))
        if not keep:
            for path in self.out.parent.glob(f"{self.out.name}.partial-*"):
                path.unlink()
        print(json.dumps(report))


def trained(base: Base, folder: Path, erasures: Iterable[tuple[Concept, EraseSettings]]) -> Library:
    """A library with these increments; those already there are not trained again."""
    library = Library(folder, create=True)
    for concept, settings in erasures:
        if concept.name not in library:
            library.save(erase(base, concept, settings, progress=True))
    return library
