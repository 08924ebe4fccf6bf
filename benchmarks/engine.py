"""What makes a U-Net evaluation cheaper on this machine? Each way beside the plain one, in turn.

    python benchmarks/engine.py --out benchmarks/results/engine.json

Sampling (a batch of 32, no gradients) and a training step of keys and values (forward and backward,
a batch of 4) of the embedded base; with ``--full`` of Stable Diffusion 1.4's architecture with
random weights, one latent at 512 pixels. All in one process. Ratios of seconds to the plain way's
in the same round, median and extremes over the rounds; compiling is counted apart. Prints a table
on stderr and one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from harness import Results, begin, parser
from sd14 import stable_diffusion_1_4
from torch import nn

from multierase import Model
from multierase.separation.directions import Directions
from multierase.training.delta import Student, side_by_side

STREAM, RANK = "tokens", 32
TIMESTEP = 500

Work = Callable[[Model, int], None]


def ways(model: Model, compiled: bool) -> dict[str, Model]:
    """Return the same model, stored or run otherwise."""
    found = {
        "plain": model,
        "channels last": changed(model, _channels_last),
        "bfloat16": changed(model, lambda module: module.to(torch.bfloat16)),
    }
    if compiled:
        found["compiled"] = changed(model, nn.Module.compile)
        found["channels last, compiled"] = changed(
            model, lambda module: _channels_last(module).compile()
        )

    return found


def _channels_last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)


def changed(model: Model, change: Callable[[nn.Module], object]) -> Model:
    """Return a model with a denoiser of its own, changed in place."""
    other = copy.copy(model)
    other.components = copy.deepcopy(dict(model.components))
    for module in other.components.values():
        change(module)

    return other


def predicted(model: Model, count: int) -> torch.Tensor:
    """Predict for a batch of noise."""
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(count, *model.latent_shape, generator=generator)
    text = model.encode(["a church by Noto"] * count)

    return model.predict(x_t, torch.full((count,), TIMESTEP), text).float()


@torch.no_grad()
def sampled(model: Model, count: int) -> None:
    """Evaluate without gradients, as sampling does."""
    predicted(model, count)


def trained(model: Model, count: int) -> None:
    """Go forward and backward through keys and values."""
    width = model.tokens([""], STREAM).shape[1]
    basis = torch.eye(width)[:, :RANK].contiguous()
    names = model.scope_parameters(model.exact_scope)
    student = Student(model, names, model.readers, {STREAM: Directions(basis, residual=1.0)})

    with side_by_side([student], [count]):
        predicted(model, count).square().mean().backward()


def seconds(work: Work, model: Model, size: int) -> float:
    began = time.perf_counter()
    work(model, size)

    return time.perf_counter() - began


def measured(model: Model, sizes: Mapping[Work, int], rounds: int, compiled: bool) -> dict:
    """Time every kind of work in every way, in turn."""
    found, models = {}, ways(model, compiled)
    for work, size in sizes.items():
        first = {name: seconds(work, each, size) for name, each in models.items()}
        rows = []
        for _ in range(rounds):
            rows.append({name: seconds(work, each, size) for name, each in models.items()})

        cell = {}
        for name in models:
            ratios = [row[name] / row["plain"] for row in rows]
            cell[name] = {
                "ratio": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
                "first_call_seconds": round(first[name], 2),
            }
            print(work.__name__, size, name, cell[name], file=sys.stderr, flush=True)
        found[f"{work.__name__}, batch of {size}"] = cell

    return found


def main() -> None:
    options = parser(__doc__, shards=False, threads=2)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument(
        "--full",
        action="store_true",
        help="Stable Diffusion 1.4's size too: 14 GiB, ten minutes",
    )
    options.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    arguments = options.parse_args()
    small = begin(arguments, channels_last=False)
    results = Results(arguments.out)

    rounds = 1 if arguments.quick else arguments.rounds
    sizes = {sampled: 2, trained: 1} if arguments.quick else {sampled: 32, trained: 4}
    compiled = arguments.compile and not arguments.quick
    report = {"benchmark": "engine", "threads": arguments.threads, "rounds": rounds}
    report["embedded"] = results.get("embedded", lambda: measured(small, sizes, rounds, compiled))
    if arguments.full:
        report["stable diffusion 1.4, random weights"] = results.get(
            "full",
            lambda: measured(stable_diffusion_1_4(), {sampled: 2, trained: 1}, 3, compiled=False),
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report["peak_memory_gib"] = round(peak / 2**20, 1)
    results.finish(report)


if __name__ == "__main__":
    main()
