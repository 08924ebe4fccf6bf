"""What makes a U-Net evaluation cheaper on this machine? Each way beside the plain one, in one process, in turn.

    python benchmarks/engine.py --out benchmarks/results/engine.json

Sampling (a batch of 32, no gradients) and a training step of keys and values (forward and backward, a batch of 4) of
the embedded base; with ``--full`` of Stable Diffusion 1.4's architecture with random weights, one latent at 512 pixels.
Ratios of seconds to the plain way's in the same round, median and extremes over the rounds; compiling is counted apart.
Prints a table on stderr and one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from full_size import stable_diffusion_1_4
from harness import Results

from multierase.base import Base, load_base
from multierase.student import Student, side_by_side


def ways(base: Base, compiled: bool) -> dict[str, Base]:
    """The same model, stored or run otherwise."""

    def changed(change: Callable) -> Base:
        other = copy.copy(base)
        other.unet = change(copy.deepcopy(base.unet))
        return other

    found = {"plain": base, "channels last": changed(lambda unet: unet.to(memory_format=torch.channels_last))}
    found["bfloat16"] = changed(lambda unet: unet.to(torch.bfloat16))
    if compiled:
        found["compiled"] = changed(torch.compile)
        found["channels last, compiled"] = changed(
            lambda unet: torch.compile(unet.to(memory_format=torch.channels_last))
        )
    return found


def inputs(base: Base, count: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(count, *base.latent_shape, generator=generator)
    return x_t, torch.full((count,), 500), base.text(["a church by Noto"] * count)


@torch.no_grad()
def sampled(base: Base, count: int) -> None:
    predicted(base, inputs(base, count))


def predicted(base: Base, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    x_t, t, text = batch
    dtype = next(base.unet.parameters()).dtype
    return base.unet(x_t.to(dtype), t, text.to(dtype), return_dict=False)[0].float()


def trained(base: Base, count: int) -> None:
    student = Student(base, "esd-x-strict", torch.eye(base.text([""]).shape[-1])[:, :32].contiguous())
    with side_by_side([student], [count]):
        predicted(base, inputs(base, count)).square().mean().backward()


def seconds(work: Callable, *arguments: object) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def measured(base: Base, sizes: dict[Callable, int], rounds: int, compiled: bool) -> dict:
    found, models = {}, ways(base, compiled)
    for work, size in sizes.items():
        first = {name: seconds(work, model, size) for name, model in models.items()}
        rows = [{name: seconds(work, model, size) for name, model in models.items()} for _ in range(rounds)]
        cell = {}
        for name in models:
            ratios = [row[name] / row["plain"] for row in rows]
            cell[name] = {
                "ratio": round(statistics.median(ratios), 3), "min": round(min(ratios), 3),
                "max": round(max(ratios), 3), "first_call_seconds": round(first[name], 2),
            }  # fmt: skip
            print(work.__name__, size, name, cell[name], file=sys.stderr, flush=True)
        found[f"{work.__name__}, batch of {size}"] = cell
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--full", action="store_true", help="Stable Diffusion 1.4's size too: 14 GiB, ten minutes")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = Results(args.out, "0/1")
    small = load_base("emoji", device="cpu")
    report = {"benchmark": "engine", "threads": args.threads, "rounds": args.rounds}
    report["embedded"] = results.get(
        "embedded", lambda: measured(small, {sampled: 32, trained: 4}, args.rounds, args.compile)
    )
    if args.full:
        report["stable diffusion 1.4, random weights"] = results.get(
            "full", lambda: measured(stable_diffusion_1_4(), {sampled: 2, trained: 1}, 3, compiled=False)
        )
    report["peak_memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)
    results.finish(report)


if __name__ == "__main__":
    main()
