"""Where can a joint-attention transformer be erased? Scopes and ranks, on the base `type`.

    python benchmarks/transformer_scopes.py --out benchmarks/results/transformer_scopes.json

Three typefaces with three seeds each, every one erased alone by the same objective, sentences and
stop, in each scope of Stable Diffusion 3's family: the layers that read text alone, from the base
and from the closed form as in a U-Net; keys and values of the text stream as factors of rank 8 and
32 and whole, and with a loss that keeps the base's own list; its queries too; all of attention;
every weight. What remains of the
typeface, what others keep and whether their glyph is right, in listed and unlisted sentences; the
certificate's degree and movement beside it; evaluations and bytes. Prints a table on stderr and one
JSON object on stdout; resumable. Increments are kept in ``--work``; to be shared between processes
with ``--shard``, with ``--report`` gathered.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from harness import Results, harmonic_mean, parser, quickened, rounded
from typefaces import GLYPH, Observer, about, load_type, of_base, share

from multierase import EraseSettings, Workspace
from multierase.increments.provenance import SIDES

TEXT = EraseSettings(scope="text-keys-values")
ARMS = {
    "text-input": EraseSettings(scope="text-input"),
    "text-input, closed form first": EraseSettings(scope="text-input", start_at=-1.0, steps=40),
    "text keys and values, rank 8": replace(TEXT, rank=8),
    "text keys and values, rank 32": replace(TEXT, rank=32),
    "text keys and values": TEXT,
    "text keys and values, keep loss": replace(TEXT, keep_weight=10.0),
    "text queries, keys, values": EraseSettings(scope="esd-x"),
    "all attention": EraseSettings(scope="attention"),
    "full": EraseSettings(scope="full"),
}
ERASED, OTHERS = 3, 30  # typefaces
OF_ERASED, OF_OTHERS = 12, 2  # pictures of each, in either group of sentences


class Scopes:
    """The benchmark: its typefaces, pictures and cells."""

    def __init__(self, arguments: Any):
        self.arguments, self.quick = arguments, arguments.quick
        self.work = arguments.work / "quick" if self.quick else arguments.work
        self.observer = Observer(load_type(arguments.threads))
        chance = random.Random(0)
        drawn = chance.sample(self.observer.typefaces, ERASED + OTHERS)
        self.erased = drawn[:ERASED][: 1 if self.quick else None]
        self.others = drawn[ERASED:][: 2 if self.quick else None]
        self.results = Results(arguments.out, arguments.shard)

    def cells(self) -> list[tuple[str, str, int]]:
        """Return arm, typeface and seed of each erasure."""
        seeds = self.arguments.seeds[: 1 if self.quick else None]

        return list(itertools.product(self.arguments.arms, self.erased, seeds))

    def measure(self, arm: str, typeface: str, seed: int) -> dict[str, Any]:
        """Erase one typeface, and look at it and at others."""
        settings = replace(ARMS[arm], seed=seed)
        folder = self.work / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
        workspace = Workspace(folder, self.observer.model, create=True)
        if typeface not in workspace.library:
            workspace.train(
                typeface, settings=quickened(settings) if self.quick else settings, resume=True
            )
        made = workspace.library.header(typeface).provenance
        pristine = {name: own.clone() for name, own in workspace.model.parameters().items()}

        with workspace.erasing(typeface):
            seen = self.look(typeface)
        now = workspace.model.parameters()
        certificate = made.certificate or {}
        return {
            "seen": seen,
            "evaluations": made.cost.evaluations,
            "steps": made.stop.steps,
            "bytes": workspace.library.path(typeface).stat().st_size,
            "degree": certificate.get("degree"),
            "moved": _moved(certificate),
            "exact": all(torch.equal(now[name], own) for name, own in pristine.items()),
        }

    def look(self, typeface: str) -> dict[str, list[bool]]:
        """Look at pictures of one typeface and of all others, with the model as it is now."""
        own = self.observer.pictures([typeface], OF_ERASED)
        others = self.observer.pictures(self.others, OF_OTHERS)

        return self.observer.see([*itertools.chain(*own.values(), *others.values())])

    def report(self) -> dict[str, Any]:
        """Return the table by arm, each cell over all typefaces and seeds, and by erasure."""
        bases = {name: self.results.done[f"base/{name}"] for name in self.erased}
        single: dict[str, dict[str, dict]] = {arm: {} for arm in self.arguments.arms}
        for arm, typeface, seed in self.cells():
            found = self.results.done[f"{arm}/{typeface}/{seed}"]
            single[arm][f"{typeface}/{seed}"] = self.row(typeface, found, bases[typeface])

        table = {}
        for arm, rows in single.items():
            table[arm] = _means(list(rows.values()))
            print(f"{arm:34s}", table[arm], file=sys.stderr, flush=True)
        return {
            "benchmark": "transformer_scopes",
            "typefaces": self.erased,
            "seeds": self.arguments.seeds,
            "sampling": asdict(self.observer.sampling),
            "arms": {arm: asdict(settings) for arm, settings in ARMS.items()},
            "table": table,
            "single": single,
        }

    def row(self, typeface: str, found: Mapping[str, Any], base: Mapping) -> dict[str, Any]:
        """Return what one erasure gives."""
        seen, row = found["seen"], {}
        own = self.observer.pictures([typeface], OF_ERASED)
        others = self.observer.pictures(self.others, OF_OTHERS)
        for group in own:
            row[f"remaining_{group}"] = share(seen, own[group])
            row[f"kept_{group}"] = of_base(seen, base, about(others[group], self.others))
            row[f"glyphs_{group}"] = of_base(seen, base, others[group], GLYPH)
            row[f"h_{group}"] = harmonic_mean(row[f"remaining_{group}"], row[f"kept_{group}"])
        numbers = ("degree", "moved", "evaluations", "steps", "bytes")

        return rounded(row) | {name: found[name] for name in numbers} | {"exact": found["exact"]}


def _moved(certificate: Mapping[str, Any]) -> float | None:
    """Return how far, in the mean over its sides, what is to stay has moved."""
    means = [certificate[side]["moved"] for side in SIDES if side in certificate]

    return statistics.mean(means) if means else None


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each number, and the worst of what remains and of what is kept."""
    found: dict[str, float] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            found[name] = statistics.mean(values)
    for group in ("listed", "unlisted"):
        found[f"worst_remaining_{group}"] = max(row[f"remaining_{group}"] for row in rows)
        found[f"worst_kept_{group}"] = min(row[f"kept_{group}"] for row in rows)

    return rounded(found)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the erasures")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    options.add_argument(
        "--work", type=Path, default=Path("build/transformer-scopes"), help="folder to go on from"
    )
    options.add_argument(
        "--report", action="store_true", help="report what has been measured; measure no more"
    )
    arguments = options.parse_args()
    benchmark = Scopes(arguments)
    results = benchmark.results

    if not arguments.report:
        for typeface in benchmark.erased:
            results.get(f"base/{typeface}", lambda t=typeface: benchmark.look(t))
        for cell in arguments.shard.of(benchmark.cells()):
            results.get("/".join(map(str, cell)), lambda c=cell: benchmark.measure(*c))
            print(*cell, file=sys.stderr, flush=True)
    if arguments.shard.is_whole:
        results.finish(benchmark.report())


if __name__ == "__main__":
    main()
