"""How small may an increment be? Bytes against what is erased and kept.

    python benchmarks/compress.py --out benchmarks/results/compress.json

The nine increments of ``subsets.py``, cut to several errors in half precision and with int8
factors, put together by the default solve for some subsets of each size; judged as there. Beside
the bytes here, what the same share of the text embedding's dimensions takes at Stable Diffusion
1.4's shapes, with as large a Gram matrix. Prints a table on stderr and one JSON object on stdout;
resumable, and to be shared between processes with ``--shard``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from drawing import FULL, QUICK, Drawn, Erased, drawn, subsets
from harness import Results, begin, harmonic_mean, parser, rounded
from sd14 import ROWS, WIDTH
from seeing import STUDIO, Observer, Seen, kept_share, share
from studios import CANDIDATES, with_keep_list

from multierase import (
    Composer,
    Increment,
    KeepList,
    Model,
    SamplingSettings,
    compress,
    save_increment,
)
from multierase.emoji import STUDIO_AND_SUBJECT, STUDIOS
from multierase.increments.value import Factors

ERRORS = (0.05, 0.2, 0.3, 0.4, 0.5, 0.6)
CUTS = {
    "as trained": None,
    **{f"float16, {error}": (error, torch.float16) for error in ERRORS},
    **{f"int8, {error}": (error, torch.int8) for error in ERRORS},
}
GROUPS = {"listed": STUDIO_AND_SUBJECT, "unlisted": CANDIDATES[:4]}
STREAM = "tokens"

Sides = Mapping[str, Drawn]  # by group


class Compression:
    """The benchmark's subsets, and what the judge sees of each."""

    def __init__(self, arguments: argparse.Namespace, model: Model, keep: KeepList):
        self.model, self.keep = model, keep
        self.extent = QUICK if arguments.quick else FULL
        chosen = subsets(arguments.per_size, self.extent)
        self.sampling = SamplingSettings(inference_steps=10)
        self.observer = Observer(model, self.sampling)
        self.results = Results(arguments.out, arguments.shard)

        self.wanted: dict[Erased, Sides] = {}
        for erased in arguments.shard.of(list(chosen)):
            self.wanted[erased] = {
                group: drawn(erased, chosen[erased], templates, self.extent)
                for group, templates in GROUPS.items()
            }

    def judged(self, name: str, increments: Mapping[str, Increment]) -> dict[Erased, Seen]:
        """Judge every subset with these increments."""
        composer = Composer(self.model, increments, keep=self.keep)

        return {erased: self._see(name, composer, erased, erased) for erased in self.wanted}

    def base(self) -> dict[Erased, Seen]:
        """Judge the base's pictures of every subset."""
        return {erased: self._see("base", None, erased, ()) for erased in self.wanted}

    def _see(self, name: str, composer: Composer | None, subset: Erased, erased: Erased) -> Seen:
        asked = []
        for sides in self.wanted[subset].values():
            asked += [*sides.erased, *sides.kept]

        return self.results.get(
            f"{name}/{'+'.join(subset)}",
            lambda: self.observer.see(asked, composer, erased, subjects=self.extent.subjects),
        )

    def cell(
        self, group: str, now: Mapping[Erased, Seen], base: Mapping[Erased, Seen]
    ) -> dict[str, float]:
        """Return what remains and what is kept, the mean over subsets."""
        remaining, kept = [], []
        for erased, groups in self.wanted.items():
            sides = groups[group]
            remaining.append(share(now[erased], sides.erased)[STUDIO])
            if sides.kept:
                kept.append(kept_share(now[erased], base[erased], sides.kept))

        found = {"erased": statistics.mean(remaining), "kept": statistics.mean(kept)}
        found["harmonic_mean"] = harmonic_mean(found["erased"], found["kept"])
        return rounded(found)


def sizes(
    increments: Mapping[str, Increment], width: int, dtype: torch.dtype | None
) -> dict[str, float]:
    """Return the mean size here, and at Stable Diffusion 1.4's shapes.

    Args:
        width: of the text embedding here.
        dtype: of the cut; ``None`` for increments as they were trained, dense at that size.
    """
    rank = statistics.mean(max(_ranks(one)) for one in increments.values())
    columns = statistics.mean(one.grams[STREAM].shape[1] for one in increments.values())
    at_sd = round(rank / width * WIDTH)

    return {
        "bytes": round(statistics.mean(map(_bytes, increments.values()))),
        "rank": round(rank, 1),
        "sd_rank": at_sd,
        "sd_bytes": 4 * ROWS * WIDTH if dtype is None else _bytes_at_sd(at_sd, columns, dtype),
    }


def _ranks(increment: Increment) -> list[int]:
    ranks = []
    for delta in increment.deltas.values():
        ranks.append(delta.up.shape[1] if isinstance(delta, Factors) else min(delta.shape))

    return ranks


def _bytes_at_sd(rank: int, gram_columns: float, dtype: torch.dtype) -> int:
    """Return the size of factors with one ``down``, as the file has them, and a Gram factor.

    The metadata is not counted.
    """
    up, down = (1, 4) if dtype == torch.int8 else (2, 2)

    return round(rank * (up * ROWS + down * WIDTH) + 2 * gram_columns * WIDTH)


def _bytes(increment: Increment) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = save_increment(increment, Path(folder) / "increment.safetensors")

        return path.stat().st_size


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--work", type=Path, default=Path("build/subsets"), help="folder of the increments"
    )
    options.add_argument("--per_size", type=int, default=3)
    arguments = options.parse_args()
    arguments.per_size = 1 if arguments.quick else arguments.per_size
    model = begin(arguments)
    library, keep = with_keep_list(model, "decoupled", arguments.work, quick=arguments.quick)
    compression = Compression(arguments, model, keep)

    whole = {name: library[name] for name in STUDIOS}
    cuts = dict(list(CUTS.items())[::6]) if arguments.quick else CUTS
    base, table = compression.base(), {}
    for name, cut in cuts.items():
        made = whole
        if cut is not None:
            made = {concept: compress(one, *cut) for concept, one in whole.items()}
        now = compression.judged(name, made)
        if not arguments.shard.is_whole:
            continue

        width = model.tokens([""], STREAM).shape[1]
        table[name] = sizes(made, width, cut[1] if cut else None)
        table[name] |= {group: compression.cell(group, now, base) for group in GROUPS}
        print(f"{name:14s}", table[name], file=sys.stderr, flush=True)
    if not arguments.shard.is_whole:
        return

    compression.results.finish(
        {
            "benchmark": "compress",
            "per_size": arguments.per_size,
            "templates": GROUPS,
            "sampling": asdict(compression.sampling),
            "table": table,
        }
    )


if __name__ == "__main__":
    main()
