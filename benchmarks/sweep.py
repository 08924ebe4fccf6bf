"""A sweep that is killed, one on a Ray cluster, and one that is not: the same rows? And what does composing cost?

    python benchmarks/sweep.py --library lib/ --work build/sweep --out benchmarks/results/sweep.json

``lib/`` holds the increments, such as all nine studios': every subset of them is judged on the suite, four subjects a
studio by default. (a) The sweep on two cores is killed three times on its way, and started again with the same command;
its rows are set against those of a sweep that was not interrupted, from which its seconds are. (b) The share of a
worker's time in which it puts concepts on the U-Net and takes them off again, over ``--sample`` sets. (c) Those sets on
a Ray cluster of this machine, with one worker and with two of one core each: the rate, and the same rows. (d) Eight of
those sets by a compiled U-Net and by a plain one, in turn: after how many sets does compiling pay?

``--kills 0`` leaves (a)'s killed sweep out, ``--sets single`` and the like make it a trial. Databases stay in
``--work``: an interrupted benchmark goes on, and a finished one is not measured again until they are removed.
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
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from harness import Results, parser

from multierase.evaluation.evaluator import Evaluator, Subject
from multierase.evaluation.executors import Executor, Processes, RayCluster
from multierase.evaluation.plans import plan
from multierase.evaluation.suites import SHIPPED
from multierase.evaluation.sweep import sweep
from multierase.library import Library

TABLES = {"cases": "*", "moments": "*", "sets": "*", "pictures": "*", "thumbnails": "*"}


def smaller_suite(work: Path, subjects: int) -> str:
    """The suite ``studios``, with this many cases of each studio."""
    read = yaml.safe_load((SHIPPED / "studios.yaml").read_text())
    with (SHIPPED / read["prompts"]).open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["studio"])
    few = [row for _, group in itertools.groupby(rows, lambda row: row["studio"]) for row in list(group)[:subjects]]
    work.mkdir(parents=True, exist_ok=True)
    with (work / "few.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(few[0]))
        table.writeheader()
        table.writerows(sorted(few, key=lambda row: int(row["case_number"])))
    (work / "few.yaml").write_text(yaml.safe_dump({**read, "prompts": "few.csv"}))
    return str(work / "few.yaml")


def rows(path: Path) -> dict[str, list]:
    connection = sqlite3.connect(path)
    found = {t: sorted(connection.execute(f"SELECT {c} FROM {t}").fetchall(), key=repr) for t, c in TABLES.items()}
    connection.close()
    return found


def done(path: Path) -> int:
    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM sets").fetchone()[0]
    except sqlite3.OperationalError:  # it is being made
        return 0
    finally:
        connection.close()


def command(args: argparse.Namespace, suite: str, path: Path) -> list[str]:
    flags = {
        "library": args.library, "suite": suite, "database": path, "workers": 2, "sets": args.sets, "count": args.count,
        "inference-steps": args.inference_steps, "device": "cpu",
    }  # fmt: skip
    given = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "multierase", "sweep", *given]


def timed_run(args: argparse.Namespace, suite: str, path: Path) -> float:
    before = time.monotonic()
    subprocess.run(command(args, suite, path), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - before


def killed_run(args: argparse.Namespace, suite: str, path: Path, every: int) -> dict:
    """The same command, killed when a part more of the sets is done, then left to end."""
    kills = []
    for kill in range(1, args.kills + 1):
        process = subprocess.Popen(command(args, suite, path), stdout=subprocess.DEVNULL)
        while process.poll() is None and done(path) < every * kill // (args.kills + 1):
            time.sleep(0.05)
        if process.poll() is not None:
            raise RuntimeError(f"the sweep ended by itself, before kill {kill}")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills.append(done(path))
    return {"killed_at_sets": kills, "seconds_after_the_last": timed_run(args, suite, path)}


def composing(subject: Subject, sample: list) -> dict:
    """(b): the seconds of ``Composer.set`` within those of a worker's looks, which put on and take off every set."""
    evaluator, seconds = Evaluator(subject), []
    compose = evaluator.eraser.set

    def timed(off) -> None:
        before = time.monotonic()
        compose(off)
        seconds.append(time.monotonic() - before)

    evaluator.eraser.set = timed
    evaluator.look(max(sample, key=len))  # the first reads the increments
    seconds.clear()
    before = time.monotonic()
    for erased in sample:
        evaluator.look(erased)
    total = time.monotonic() - before
    return {"sets": len(sample), "seconds": total, "composing": sum(seconds), "share": sum(seconds) / total}


def compiled(subject: Subject, sample: list) -> dict:
    """(d): seconds of a set, in one process; ``first``: of the first, which is also when it is compiled."""
    evaluators = {name: Evaluator(subject) for name in ("plain", "compiled")}
    evaluators["compiled"].base.unet.compile()
    seconds = {name: [] for name in evaluators}
    for erased in [sample[0], *sample[:: max(1, len(sample) // 8)][:8]]:
        for name, evaluator in evaluators.items():
            before = time.monotonic()
            evaluator.look(erased)
            seconds[name].append(time.monotonic() - before)
    first = {name: taken[0] for name, taken in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["plain"][1:], seconds["compiled"][1:], strict=True)]
    saved = statistics.median(seconds["plain"][1:]) - statistics.median(seconds["compiled"][1:])
    return {
        "first": first, "ratios": sorted(ratios), "ratio": statistics.median(ratios),
        "pays_after_sets": (first["compiled"] - first["plain"]) / saved if saved > 0 else None,
    }  # fmt: skip


class Clocked:
    """An executor, and when each of its looks came."""

    def __init__(self, executor: Executor):
        self.executor, self.times = executor, []

    def looks(self, subject: Subject, sets: list) -> Iterator:
        for found in self.executor.looks(subject, sets):
            self.times.append(time.monotonic())
            yield found

    def rate(self) -> float:
        """Sets a second, once all workers have started: over the last three quarters."""
        first = len(self.times) // 4
        return (len(self.times) - 1 - first) / (self.times[-1] - self.times[first])


def on_ray(subject: Subject, sample: list, work: Path) -> dict:
    """(c)"""
    found, tables = {}, {}
    executors = {"process": Processes(1), "one": RayCluster("local", 1), "two": RayCluster("local", 2)}
    for name, executor in executors.items():
        path, clocked, before = work / f"ray-{name}.db", Clocked(executor), time.monotonic()
        path.unlink(missing_ok=True)
        sweep(subject, [("", erased) for erased in sample], path, executor=clocked).close()
        found[name] = {"seconds": time.monotonic() - before, "sets_per_second": clocked.rate()}
        tables[name] = rows(path)
    ratio = found["two"]["sets_per_second"] / found["one"]["sets_per_second"]
    same = tables["process"] == tables["one"] == tables["two"]
    return {"sets": len(sample) + 1, **found, "rate_ratio": ratio, "same_rows": same}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--library", required=True, help="folder of the increments")
    arguments.add_argument("--work", type=Path, default=Path("build/sweep"), help="folder of the databases")
    arguments.add_argument("--suite", help="a suite's name or file; four subjects of each studio by default")
    arguments.add_argument("--subjects", type=int, default=4, help="of each studio, in the default suite")
    arguments.add_argument("--sets", default="subsets")
    arguments.add_argument("--count", type=int, default=0, help="for --sets random")
    arguments.add_argument("--inference_steps", type=int, default=10)
    arguments.add_argument("--kills", type=int, default=3)
    arguments.add_argument("--sample", type=int, default=32, help="sets, for what composing costs and for Ray")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    suite = args.suite or smaller_suite(args.work, args.subjects)
    subject = Subject(suite=suite, library=args.library, device="cpu", inference_steps=args.inference_steps)
    moments = plan(args.sets, list(Library(args.library)), count=args.count)
    sample = [erased for _, erased in moments[:: max(1, len(moments) // args.sample)]][: args.sample]
    results, whole, killed = Results(args.out, args.shard), args.work / "whole.db", args.work / "killed.db"
    report = {
        "benchmark": "sweep", "suite": suite, "sets": args.sets, "increments": list(Library(args.library)),
        "inference_steps": args.inference_steps,
        "composing": results.get("composing", lambda: composing(subject, sample)),
        "compiled": results.get("compiled", lambda: compiled(subject, sample)),
        "ray": results.get("ray", lambda: on_ray(subject, sample, args.work)),
        "whole": results.get("whole", lambda: {"seconds": timed_run(args, suite, whole)}),
    }  # fmt: skip
    report["whole"] |= {"sets_done": done(whole), "pictures": len(rows(whole)["pictures"])}
    if args.kills:
        report["killed"] = results.get("killed", lambda: killed_run(args, suite, killed, len(moments) + 1))
        report["killed"]["same_rows"] = rows(killed) == rows(whole)
    print(json.dumps(report, indent=1), file=sys.stderr)
    results.finish(report)


if __name__ == "__main__":  # workers import this file
    main()
