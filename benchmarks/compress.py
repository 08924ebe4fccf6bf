"""How small may an increment be? Bytes against what is erased and kept.

    python benchmarks/compress.py --out benchmarks/results/compress.json

The nine increments of ``subsets.py``, cut to several errors in half precision and with int8 factors, put together by
the default solve for some subsets of each size; judged as there. Beside the bytes here, what the same share of the text
embedding's dimensions takes at Stable Diffusion 1.4's shapes, with as large a Gram matrix. Prints a table on stderr and
one JSON object on stdout; resumable, and to be shared between processes with ``--shard``.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from harness import Results, parser
from subsets import CANDIDATES, SUBJECTS, drawn, look, share, subsets, with_keep_list

from multierase.base import load_base
from multierase.composer import Composer
from multierase.concepts import EMOJI_STUDIOS, STUDIO_AND_SUBJECT
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import SamplingSettings
from multierase.increments import Increment
from multierase.library import save_increment

CUTS = {
    "as trained": None,
    **{f"float16, {error}": (error, torch.float16) for error in (0.05, 0.2, 0.3, 0.4, 0.5, 0.6)},
    **{f"int8, {error}": (error, torch.int8) for error in (0.05, 0.2, 0.3, 0.4, 0.5, 0.6)},
}
GROUPS = {"listed": STUDIO_AND_SUBJECT, "unlisted": CANDIDATES[:4]}
SD_ROWS, SD_WIDTH = 24_960, 768  # of Stable Diffusion 1.4's keys and values, stacked


def ranks(increment: Increment) -> list[int]:
    return [
        min(delta.shape) if isinstance(delta, torch.Tensor) else delta.up.shape[1]
        for delta in increment.deltas.values()
    ]


def bytes_at_sd(rank: int, gram_columns: float, dtype: torch.dtype) -> int:
    """Of factors with one ``down``, as the file has them, and a Gram matrix; without the metadata."""
    up, down = (1, 4) if dtype == torch.int8 else (2, 2)
    return round(rank * (up * SD_ROWS + down * SD_WIDTH) + 2 * gram_columns * SD_WIDTH)


def size(increment: Increment) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return save_increment(increment, Path(folder) / "increment.safetensors").stat().st_size


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--work", type=Path, default=Path("build/subsets"), help="folder of the increments")
    arguments.add_argument("--per_size", type=int, default=3)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    base.unet.to(memory_format=torch.channels_last)
    library, keep = with_keep_list(base, "decoupled", args.work)
    results, sampling = Results(args.out, args.shard), SamplingSettings(inference_steps=10)
    index, shards = map(int, args.shard.split("/"))
    chosen = list(subsets(args.per_size).items())
    wanted = {
        off: {group: drawn(off, number, templates) for group, templates in GROUPS.items()} for off, number in chosen
    }
    table = {}
    whole = {name: library[name] for name in EMOJI_STUDIOS}
    for cut_name, cut in CUTS.items():
        made = whole if cut is None else {name: one.compressed(*cut) for name, one in whole.items()}
        composer, columns = Composer(base.unet, made, keep=keep), {group: ([], []) for group in GROUPS}
        for off, _ in chosen[index::shards]:
            listed = [p for sides in wanted[off].values() for side in sides.values() for p in side]
            seen = functools.partial(look, base, judge, listed, sampling, SUBJECTS)
            before = results.get(f"base/{'+'.join(off)}", seen)
            with composer.erased(*off):
                now = results.get(f"{cut_name}/{'+'.join(off)}", seen)
            for group, sides in wanted[off].items():
                columns[group][0].append(share(now, sides["erased"])[0])
                if sides["kept"]:
                    columns[group][1].append(share(now, sides["kept"])[0] / share(before, sides["kept"])[0])
        if shards > 1:
            continue
        rank, width = statistics.mean(max(ranks(one)) for one in made.values()), base.text([""]).shape[-1]
        at_sd = round(rank / width * SD_WIDTH)
        cell = {"bytes": round(statistics.mean(map(size, made.values()))), "rank": round(rank, 1)}
        columns_of_gram = statistics.mean(one.gram.shape[1] for one in made.values())
        cell["sd_rank"] = at_sd
        cell["sd_bytes"] = bytes_at_sd(at_sd, columns_of_gram, cut[1]) if cut else 4 * SD_ROWS * SD_WIDTH
        for group, (erased, kept) in columns.items():
            found = {"erased": statistics.mean(erased), "kept": statistics.mean(kept)}
            found["harmonic_mean"] = statistics.harmonic_mean([1 - found["erased"], min(found["kept"], 1)])
            cell[group] = {key: round(value, 4) for key, value in found.items()}
        table[cut_name] = cell
        print(f"{cut_name:14s}", cell, file=sys.stderr, flush=True)
    if shards > 1:
        return
    report = {
        "benchmark": "compress", "per_size": args.per_size, "templates": GROUPS, "sampling": asdict(sampling),
        "table": table,
    }  # fmt: skip
    results.finish(report)


if __name__ == "__main__":
    main()
