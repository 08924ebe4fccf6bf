"""How long does it take to apply increments, remove them and switch sets, at the real shapes?

    python benchmarks/compose.py --out benchmarks/results/compose.json

Increments of random numbers on Stable Diffusion 1.4's cross-attention: keys and values (24,960 x
768 in all) as factors and dense, and all of cross-attention (44 million numbers) dense. Beside
copying the touched weights once, ``load_state_dict`` and PEFT's adapters
(``pip install -e ".[bench]"``), in one process. The composed weights must be the plain sum. Then
what a thousand cycles leave behind. Times are medians, and multiples of the copy: absolute ones
depend on the machine. Prints one JSON object on stdout; resumable.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from harness import Results, parser
from peft_adapters import fuse, peft_layers, peft_times, unfuse
from sd14 import WIDTH, cross_attention_alone

from multierase import Composer, Increment, KeepList, Model
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Provenance
from multierase.increments.value import Factors
from multierase.models.weights import Weights
from multierase.separation.fitting import Fitting

TOKENS = 40  # of a concept's prompts, at the numerical rank
SCALE = 1e-3
STREAM = "tokens"
KEPT_TOKENS = 4096
ONE = "concept 000"

Seconds = list[float]
"""Median, least and most."""


def increments(model: Model, scope: str, count: int, rank: int | None) -> dict[str, Increment]:
    """Make increments of random numbers.

    Args:
        rank: of factors, which share the one that reads the text, as they do in the files;
            ``None`` for dense ones.
    """
    parameters = model.parameters()
    touched = {name: parameters[name].detach() for name in model.scope_parameters(scope)}
    base = Fingerprint.of(model.name, model.family, touched)
    readers = {name: stream for name, stream in model.readers.items() if name in touched}
    generator = torch.Generator().manual_seed(1)

    library = {}
    for index in range(count):
        down = None if rank is None else torch.randn(rank, WIDTH, generator=generator)
        deltas = {}
        for name, weight in touched.items():
            if down is None:
                deltas[name] = SCALE * torch.randn(weight.shape, generator=generator)
                continue
            up = SCALE * torch.randn(weight.shape[0], rank, generator=generator)
            deltas[name] = Factors(up, down)

        name = f"concept {index:03d}"
        grams = {STREAM: torch.randn(WIDTH, TOKENS, generator=generator)}
        library[name] = Increment(deltas, base, Provenance(name, scope=scope), grams, readers)
    return library


def timed(
    function: Callable[[], object],
    before: Callable[[], object] = lambda: None,
    repeats: int = 7,
) -> Seconds:
    """Time a function; the first call is not counted, and ``before`` is not timed."""
    seconds = []
    for _ in range(repeats + 1):
        before()
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)

    rest = seconds[1:]
    return [statistics.median(rest), min(rest), max(rest)]


def composed(
    model: Model, library: Mapping[str, Increment], count: int, solve: str
) -> dict[str, Seconds]:
    """Time two sets of ``count``: first contact with all checks, applied, switched, removed."""
    tokens = torch.randn(WIDTH, KEPT_TOKENS)
    keep = KeepList({STREAM: {frozenset(): torch.cov(tokens).double() * KEPT_TOKENS}})
    names = list(library)
    one = dict.fromkeys(names[:count], 1.0)
    other = dict.fromkeys(names[count : 2 * count], 1.0)
    composer = Composer(model, library, solve=solve, keep=keep)

    began = time.perf_counter()
    composer.set(one)
    first = time.perf_counter() - began
    composer.set(other)
    times = {
        "first contact": [first] * 3,
        "put on": timed(lambda: composer.set(one), composer.restore_all),
        "switch": timed(lambda: composer.set(one), lambda: composer.set(other)),
        "take off": timed(composer.restore_all, lambda: composer.set(one)),
    }

    active = {name: library[name] for name in one}
    composer.restore_all()
    if solve == "sum":
        require_sum(composer, active)
        if all(isinstance(d, Factors) for each in active.values() for d in each.deltas.values()):
            times["the products alone"] = timed(products(model, list(active.values())))
    else:
        fitting = Fitting(composer, Weights(model), library)
        weights = {"keep_weight": composer.keep_weight, "ridge": composer.ridge}
        times["the solve alone"] = timed(
            lambda: fitting.transfers(active, tuple(sorted(library)), keep, **weights)
        )
    return times


def require_sum(composer: Composer, active: Mapping[str, Increment]) -> None:
    """Assert that the composed weights are the base's and all increments, added up one by one."""
    parameters = composer.model.parameters()
    some = sorted(next(iter(active.values())).deltas)[:3]
    pristine = {name: parameters[name].detach().double() for name in some}

    with composer.erasing(*active):
        for name in some:
            wanted = sum((each.dense(name).double() for each in active.values()), pristine[name])
            assert torch.allclose(parameters[name].double(), wanted, atol=1e-6), name
    for name in some:
        assert torch.equal(parameters[name].double(), pristine[name]), name


def products(model: Model, active: Sequence[Increment]) -> Callable[[], None]:
    """Return the arithmetic of a set, its factors stacked beforehand: no composer is faster."""
    parameters, stacked = model.parameters(), []
    for name in active[0].deltas:
        up = torch.cat([increment.deltas[name].up for increment in active], dim=1)
        down = torch.cat([increment.deltas[name].down for increment in active])
        weight = parameters[name].detach().clone()
        stacked.append((weight, up, down, torch.empty_like(weight)))

    def work() -> None:
        for weight, up, down, out in stacked:
            torch.addmm(weight, up, down, out=out)

    return work


def copied(model: Model, scope: str) -> dict[str, Seconds]:
    """Time copying the touched weights, and ``load_state_dict``."""
    parameters = model.parameters()
    weights = {name: parameters[name] for name in model.scope_parameters(scope)}
    pristine = {name: weight.detach().clone() for name, weight in weights.items()}
    ((component, module),) = model.components.items()
    state = {name.removeprefix(f"{component}."): tensor for name, tensor in pristine.items()}

    @torch.no_grad()
    def copy() -> None:
        for name, weight in weights.items():
            weight.copy_(pristine[name])

    return {
        "copy": timed(copy, repeats=15),
        "load_state_dict": timed(lambda: module.load_state_dict(state, strict=False), repeats=15),
    }


def drift(dtype: torch.dtype, cycles: int, rank: int) -> dict[str, float]:
    """Apply and remove one concept, again and again.

    Returns:
        The largest change of a weight, as a share of the weights' standard deviation.
    """
    model = cross_attention_alone(dtype)
    parameters = model.parameters()
    before = {name: parameters[name].detach().clone() for name in model.readers}
    spread = torch.cat([weight.float().flatten() for weight in before.values()]).std()

    def largest(weights: Mapping[str, torch.Tensor]) -> float:
        off = [(weights[name].float() - before[name].float()).abs().max() for name in before]
        return (max(off) / spread).item()

    composer = Composer(model, increments(model, model.exact_scope, 1, rank))
    for _ in range(cycles):
        composer.erase(ONE)
        composer.restore(ONE)
    found = {"multierase": largest(model.parameters())}

    (module,) = model.components.values()
    layers = peft_layers(module, 1, rank)
    for _ in range(cycles):
        fuse(layers, ["a0"])
        unfuse(layers)
    after = {name.replace(".base_layer", ""): p for name, p in model.parameters().items()}
    return {**found, "PEFT, fuse and unfuse": largest(after)}


def in_copies(seconds: Mapping[str, Mapping[str, Seconds]]) -> dict[str, dict]:
    """Return all times in seconds, and as multiples of copying what the scope touches."""
    table: dict[str, dict] = {}
    for key, times in seconds.items():
        everything = key == "esd-x" or key.startswith("cross-attention")
        copy = seconds["esd-x" if everything else "esd-x-strict"]["copy"][0]

        table[key] = {}
        for what, found in times.items():
            table[key][what] = {
                "copies": [round(value / copy, 2) for value in found],
                "seconds": [round(value, 5) for value in found],
            }

    return table


def kinds(ranks: Sequence[int], quick: bool) -> dict[tuple[str, str, int | None], tuple[int, ...]]:
    """Return by kind of increments (name, scope, rank) how many are erased at once."""
    found = {}
    for rank in ranks:
        found[f"keys and values, rank {rank}", "esd-x-strict", rank] = (1, 10, 100)
    found["keys and values, dense", "esd-x-strict", None] = (1, 10)
    found["cross-attention, dense", "esd-x", None] = (1, 10)

    return {kind: counts[:1] for kind, counts in found.items()} if quick else found


def main() -> None:
    options = parser(__doc__, shards=False, threads=2)
    options.add_argument(
        "--ranks", type=int, nargs="+", default=[10, 4], help="ranks of factored increments"
    )
    options.add_argument("--cycles", type=int, default=1000)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    results, model, quick = Results(arguments.out), cross_attention_alone(), arguments.quick
    cycles = 2 if quick else arguments.cycles

    seconds = {}
    for scope in ("esd-x-strict", "esd-x"):
        seconds[scope] = results.get(scope, lambda s=scope: copied(model, s))
    for (name, scope, rank), counts in kinds(arguments.ranks, quick).items():
        library = increments(model, scope, 2 * max(counts), rank)
        for count in counts:
            for solve in ("sum", "joint"):
                key = f"{name}, {count}, {solve}"
                seconds[key] = results.get(
                    key, lambda s=solve, n=count, lib=library: composed(model, lib, n, s)
                )
                print(key, seconds[key], file=sys.stderr, flush=True)
        del library

    (adapted,) = cross_attention_alone().components.values()
    layers = peft_layers(adapted, 20, arguments.ranks[0])
    for count in (1, 10):
        key = f"keys and values, PEFT, {count}"
        seconds[key] = results.get(key, lambda n=count: peft_times(layers, n, timed))
        print(key, seconds[key], file=sys.stderr, flush=True)

    drifts = {}
    for dtype in (torch.float32, torch.float16):
        name = str(dtype).removeprefix("torch.")
        drifts[name] = results.get(
            f"drift {dtype}", lambda d=dtype: drift(d, cycles, arguments.ranks[0])
        )
    results.finish(
        {
            "benchmark": "compose",
            "ranks": arguments.ranks,
            "threads": arguments.threads,
            "cycles": cycles,
            "numbers are": "median, least, most",
            "table": in_copies(seconds),
            "drift": drifts,
        }
    )


if __name__ == "__main__":
    main()
