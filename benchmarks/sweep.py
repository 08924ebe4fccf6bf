"""A sweep that is killed, one on a Ray cluster, and one that is left alone: the same rows?

    python benchmarks/sweep.py --library lib/ --work build/sweep --out benchmarks/results/sweep.json

And what does composing cost? ``lib/`` holds the increments, such as all nine studios': every subset
of them is judged on the suite, four subjects a studio by default.

(a) The sweep on two cores is killed three times on its way, and started again with the same
command; its rows are compared with those of a sweep that was not interrupted, from which its
seconds are. (b) The share of a worker's time in which it applies and removes increments, over
``--sample`` sets. (c) Those sets on a Ray cluster of this machine, with one worker and with two of
one core each: the rate, and the same rows. (d) Eight of those sets by a compiled denoiser and by a
plain one, in turn: after how many sets does compiling pay?

``--kills 0`` leaves (a)'s killed sweep out, ``--sets single`` and the like make it a trial.
Databases stay in ``--work``: an interrupted benchmark goes on, and a finished one is not measured
again until they are removed.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from harness import Results, parser

from multierase import Library
from multierase.evaluation.concept_sets import SETS, Erased, concept_sets
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.suites import SHIPPED
from multierase.evaluation.sweep import sweep
from multierase.executors.executor import Done, Executor, Make
from multierase.executors.processes import Processes
from multierase.executors.ray import RayCluster

TABLES = ("cases", "stages", "sets", "pictures", "thumbnails")
COMPILED_SETS = 8


def smaller_suite(work: Path, subjects: int) -> str:
    """Write the suite ``studios`` with this many cases of each studio, and return its path."""
    read = yaml.safe_load((SHIPPED / "studios.yaml").read_text())
    with (SHIPPED / read["prompts"]).open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=_studio)
    few = []
    for _, group in itertools.groupby(rows, _studio):
        few += list(group)[:subjects]

    work.mkdir(parents=True, exist_ok=True)
    with (work / "few.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(few[0]))
        table.writeheader()
        table.writerows(sorted(few, key=lambda row: int(row["case_number"])))
    (work / "few.yaml").write_text(yaml.safe_dump({**read, "prompts": "few.csv"}))
    return str(work / "few.yaml")


def _studio(row: dict[str, str]) -> str:
    return row["studio"]


def rows(path: Path) -> dict[str, list]:
    """Return a database's rows, by table."""
    connection = sqlite3.connect(path)
    found = {}
    for table in TABLES:
        found[table] = sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
    connection.close()

    return found


def done(path: Path) -> int:
    """Return how many sets a database has."""
    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM sets").fetchone()[0]
    except sqlite3.OperationalError:  # it is being made
        return 0
    finally:
        connection.close()


def command(arguments: argparse.Namespace, suite: str, path: Path) -> list[str]:
    """Return the sweep as a user would type it."""
    flags = {
        "library": arguments.library,
        "suite": suite,
        "database": path,
        "workers": 2,
        "sets": arguments.sets,
        "inference_steps": arguments.inference_steps,
        "device": "cpu",
    }
    if arguments.sets == "random":
        flags["count"] = arguments.count

    words = [sys.executable, "-m", "multierase", "sweep"]
    for name, value in flags.items():
        words += [f"--{name}", str(value)]
    return words


def timed_run(arguments: argparse.Namespace, suite: str, path: Path) -> float:
    """Run the sweep to its end; return its seconds."""
    before = time.monotonic()
    subprocess.run(command(arguments, suite, path), check=True, stdout=subprocess.DEVNULL)

    return time.monotonic() - before


def killed_run(arguments: argparse.Namespace, suite: str, path: Path, every: int) -> dict:
    """Kill the same command whenever a part more of the sets is done, then let it end."""
    kills = []
    for kill in range(1, arguments.kills + 1):
        process = subprocess.Popen(command(arguments, suite, path), stdout=subprocess.DEVNULL)
        while process.poll() is None and done(path) < every * kill // (arguments.kills + 1):
            time.sleep(0.05)
        if process.poll() is not None:
            raise RuntimeError(f"the sweep ended by itself, before kill {kill}")

        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills.append(done(path))

    seconds = timed_run(arguments, suite, path)
    return {"killed_at_sets": kills, "seconds_after_the_last": seconds}


def composing(experiment: Experiment, sample: Sequence[Erased]) -> dict:
    """(b) Time ``Composer.set`` within a worker's time for these sets."""
    evaluator, seconds = Evaluator(experiment), []
    composer = evaluator.eraser.composer
    compose = composer.set

    def timed(erased) -> None:
        before = time.monotonic()
        compose(erased)
        seconds.append(time.monotonic() - before)

    composer.set = timed
    evaluator.observe(max(sample, key=len))  # the first reads the increments
    seconds.clear()
    before = time.monotonic()
    for erased in sample:
        evaluator.observe(erased)
    total = time.monotonic() - before

    return {
        "sets": len(sample),
        "seconds": total,
        "composing": sum(seconds),
        "share": sum(seconds) / total,
    }


def compiled(experiment: Experiment, sample: Sequence[Erased]) -> dict:
    """(d) Time sets in one process; ``first``: of the first, when the denoiser is compiled."""
    evaluators = {name: Evaluator(experiment) for name in ("plain", "compiled")}
    for module in evaluators["compiled"].model.components.values():
        module.compile()

    seconds = {name: [] for name in evaluators}
    step = max(1, len(sample) // COMPILED_SETS)
    for erased in [sample[0], *sample[::step][:COMPILED_SETS]]:
        for name, evaluator in evaluators.items():
            before = time.monotonic()
            evaluator.observe(erased)
            seconds[name].append(time.monotonic() - before)

    first = {name: taken[0] for name, taken in seconds.items()}
    plain, ours = seconds["plain"][1:], seconds["compiled"][1:]
    ratios = sorted(b / a for a, b in zip(plain, ours, strict=True))
    saved = statistics.median(plain) - statistics.median(ours)
    return {
        "first": first,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "pays_after_sets": (first["compiled"] - first["plain"]) / saved if saved > 0 else None,
    }


class Clocked:
    """An executor, and when each of its sets came."""

    def __init__(self, executor: Executor):
        self.executor, self.times = executor, []

    def works_here(self, count: int) -> bool:
        return self.executor.works_here(count)

    def map(self, make: Make, tasks: Sequence[Any]) -> Done:
        for found in self.executor.map(make, tasks):
            self.times.append(time.monotonic())
            yield found

    def rate(self) -> float:
        """Return sets a second, once all workers have started: over the last three quarters."""
        first = len(self.times) // 4

        return (len(self.times) - 1 - first) / (self.times[-1] - self.times[first])


def on_ray(experiment: Experiment, sample: Sequence[Erased], work: Path) -> dict:
    """(c) Sweep with one process, with one of Ray's workers, and with two."""
    executors = {
        "process": Processes(1),
        "one": RayCluster("local", 1),
        "two": RayCluster("local", 2),
    }
    stages = [("", erased) for erased in sample]

    found, tables = {}, {}
    for name, executor in executors.items():
        path, clocked = work / f"ray-{name}.db", Clocked(executor)
        path.unlink(missing_ok=True)
        before = time.monotonic()
        sweep(experiment, stages, path, executor=clocked).close()
        found[name] = {"seconds": time.monotonic() - before, "sets_per_second": clocked.rate()}
        tables[name] = rows(path)

    ratio = found["two"]["sets_per_second"] / found["one"]["sets_per_second"]
    same = tables["process"] == tables["one"] == tables["two"]
    return {"sets": len(sample) + 1, **found, "rate_ratio": ratio, "same_rows": same}


def options_of(doc: str) -> argparse.ArgumentParser:
    options = parser(doc, shards=False)
    options.add_argument("--library", required=True, help="folder of the increments")
    options.add_argument(
        "--work", type=Path, default=Path("build/sweep"), help="folder of the databases"
    )
    options.add_argument("--suite", help="a suite's name or file; by default a part of 'studios'")
    options.add_argument(
        "--subjects", type=int, default=4, help="subjects of each studio in the default suite"
    )
    options.add_argument("--sets", choices=SETS, default="subsets")
    options.add_argument("--count", type=int, default=0, help="for --sets random")
    options.add_argument("--inference_steps", type=int, default=10)
    options.add_argument("--kills", type=int, default=3)
    options.add_argument(
        "--sample", type=int, default=32, help="sets for what composing costs and for Ray"
    )
    options.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options.add_argument("--ray", action=argparse.BooleanOptionalAction, default=True)

    return options


def main() -> None:
    arguments = options_of(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    if arguments.quick:
        arguments.subjects, arguments.sample, arguments.sets = 1, 2, "single"
        arguments.kills, arguments.compile, arguments.ray = min(arguments.kills, 1), False, False

    work = arguments.work
    suite = arguments.suite or smaller_suite(work, arguments.subjects)
    experiment = Experiment(
        suite=suite,
        library=arguments.library,
        device="cpu",
        inference_steps=arguments.inference_steps,
    )
    names = list(Library(arguments.library))
    stages = concept_sets(arguments.sets, names, count=arguments.count)
    step = max(1, len(stages) // arguments.sample)
    sample = [erased for _, erased in stages[::step]][: arguments.sample]

    results, whole, killed = Results(arguments.out), work / "whole.db", work / "killed.db"
    report = {
        "benchmark": "sweep",
        "suite": suite,
        "sets": arguments.sets,
        "increments": names,
        "inference_steps": arguments.inference_steps,
        "composing": results.get("composing", lambda: composing(experiment, sample)),
    }
    if arguments.compile:
        report["compiled"] = results.get("compiled", lambda: compiled(experiment, sample))
    if arguments.ray:
        report["ray"] = results.get("ray", lambda: on_ray(experiment, sample, work))

    seconds = results.get("whole", lambda: {"seconds": timed_run(arguments, suite, whole)})
    pictures = len(rows(whole)["pictures"])
    report["whole"] = {**seconds, "sets_done": done(whole), "pictures": pictures}
    if arguments.kills:
        found = results.get("killed", lambda: killed_run(arguments, suite, killed, len(stages) + 1))
        report["killed"] = {**found, "same_rows": rows(killed) == rows(whole)}
    print(json.dumps(report, indent=1), file=sys.stderr)
    results.finish(report)


if __name__ == "__main__":  # workers import this file
    main()
