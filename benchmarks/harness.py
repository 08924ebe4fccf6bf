"""Shared by the benchmarks: resumable results, the base, libraries, the machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import diffusers
import torch

import multierase
from multierase import Concept, EraseSettings, Library, Model, erase, load_base
from multierase.files import write_json

T = TypeVar("T")


def environment() -> dict:
    """Return commit, machine and versions."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()

    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "commit": commit,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        **gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "multierase": multierase.__version__,
    }


def parser(doc: str, *, shards: bool = True, threads: int = 1) -> argparse.ArgumentParser:
    """Return the options that all benchmarks take.

    Args:
        doc: the benchmark's docstring, whose first line is its help.
        shards: whether its work can be shared between processes.
        threads: how many it uses by default.
    """
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    options.add_argument(
        "--out", type=Path, required=True, help="file for the results, and to go on from"
    )
    options.add_argument("--threads", type=int, default=threads)
    options.add_argument(
        "--quick",
        action="store_true",
        help="the smallest form, to see that everything runs; its numbers mean nothing",
    )
    if shards:
        options.add_argument(
            "--shard", type=Shard.parse, default=Shard(), help="i/n: every n-th piece from the i-th"
        )

    return options


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several processes that share a benchmark's work."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        index, count = map(int, text.split("/"))
        return cls(index, count)

    @property
    def is_whole(self) -> bool:
        """Whether there is no other, so that this process reports."""
        return self.count == 1

    def of(self, pieces: Sequence) -> Sequence:
        """Return this process's pieces."""
        return pieces[self.index :: self.count]


def begin(arguments: argparse.Namespace, *, channels_last: bool = True) -> Model:
    """Set the threads, and load the embedded base on the CPU.

    Args:
        channels_last: store convolutions so that they are a fifth faster here.
    """
    torch.set_num_threads(arguments.threads)
    model = load_base("emoji", device="cpu")
    if channels_last:
        for module in model.components.values():
            module.to(memory_format=torch.channels_last)

    return model


class Results:
    """Results by key, kept in ``<out>.partial-<shard>`` after each: a killed benchmark goes on."""

    def __init__(self, out: Path, shard: Shard | None = None):
        shard = shard or Shard()
        self.out = out
        self.own = out.with_name(f"{out.name}.partial-{shard.index}-{shard.count}")
        out.parent.mkdir(parents=True, exist_ok=True)

        self.done: dict[str, dict] = {}
        for path in self._partial():
            self.done.update(json.loads(path.read_text()))
        self.mine = json.loads(self.own.read_text()) if self.own.exists() else {}

    def get(self, key: str, compute: Callable[[], dict]) -> dict:
        """Return a result; it is computed if it is not there yet."""
        if key not in self.done:
            self.put(key, compute())

        return self.done[key]

    def put(self, key: str, found: dict) -> None:
        """Keep a result, in the place of one of before."""
        self.done[key] = self.mine[key] = found
        write_json(self.own, self.mine)

    def finish(self, report: dict, *, keep: bool = False) -> None:
        """Write the report, print it, and drop the single results.

        Args:
            keep: leave the single results, to go on from.
        """
        report = {**report, "environment": environment()}
        write_json(self.out, report)
        if not keep:
            for path in self._partial():
                path.unlink()
        print(json.dumps(report))

    def _partial(self) -> list[Path]:
        return sorted(self.out.parent.glob(f"{self.out.name}.partial-*"))


def quickened(settings: EraseSettings) -> EraseSettings:
    """Return the settings of an erasure that only shows that it runs."""
    return dataclasses.replace(
        settings, steps=min(settings.steps or 2, 2), batch_size=2, trajectories=1, sampler_steps=2
    )


def trained(
    model: Model,
    folder: Path,
    erasures: Iterable[tuple[Concept, EraseSettings]],
    method: str = "esd",
) -> Library:
    """Return a library with these increments; those already there are not trained again."""
    library = Library(folder, create=True)
    for concept, settings in erasures:
        if concept.name not in library:
            library.save(erase(model, concept, settings, method=method, progress=True))

    return library


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """Return what a function returns, and its seconds."""
    began = time.perf_counter()
    result = function()

    return result, round(time.perf_counter() - began, 2)


def harmonic_mean(remaining: float, kept: float) -> float:
    """Combine what is gone, ``1 - remaining``, with what is kept, at most all of it."""
    return statistics.harmonic_mean([1 - remaining, min(kept, 1)])


def mean_and_extremes(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Return mean, least and most."""
    return {
        "mean": round(statistics.mean(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def rounded(cell: dict[str, float], digits: int = 4) -> dict[str, float]:
    """Round every number of a table's cell."""
    return {name: round(value, digits) for name, value in cell.items()}
