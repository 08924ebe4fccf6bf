"""Does the real size work? Stable Diffusion 1.4's architecture: erase, store, compose, restore.

    python benchmarks/full_size.py --out benchmarks/results/full_size.json

The weights are random, so nothing is learned about pictures: it shows that the code runs at this
size, what memory it takes, what an increment weighs, and that restoring is exact. The published
procedure's counts follow from the settings. Ten minutes on two cores, about 12 GiB.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import torch
from harness import Results, parser, timed
from sd14 import stable_diffusion_1_4

from multierase import Composer, EraseSettings, KeepList, Library, Model, erase
from multierase.files import digest_tensors

CONCEPTS = ("Noto", "Twemoji")
SCOPES = ("esd-x-strict", "esd-x")


def measure(model: Model, scope: str, folder: Path) -> dict:
    """Erase two concepts in two steps each; then apply both and remove them."""
    settings = EraseSettings(
        scope=scope,
        steps=2,
        batch_size=1,
        trajectories=1,
        sampler_steps=3,
        sampling_batch=1,
        stop_at=None,
    )
    library, erasures = Library(folder / scope, create=True), []
    for concept in CONCEPTS:
        increment, seconds = timed(lambda c=concept: erase(model, c, settings, progress=True))
        evaluations = increment.provenance.cost.evaluations
        size = library.save(increment).stat().st_size
        erasures.append({"unet_evaluations": evaluations, "seconds": seconds, "bytes": size})

    keep = KeepList.of(model, [], library)
    report = {"erasures": erasures}
    for solve in ("sum", "joint"):
        report[solve] = switched(Composer(model, library, solve=solve, keep=keep))
    return report


def switched(composer: Composer) -> dict:
    """Time both concepts' way in and out, and compare the weights with the base's."""
    pristine = digest_tensors(composer.model.parameters())
    _, first = timed(lambda: composer.erase(*CONCEPTS))
    _, removed = timed(composer.restore_all)
    _, again = timed(lambda: composer.erase(*CONCEPTS))
    composer.restore_all()

    return {
        "put_on_first": first,
        "put_on": again,
        "taken_off": removed,
        "restored_bit_exact": digest_tensors(composer.model.parameters()) == pristine,
    }


def main() -> None:
    arguments = parser(__doc__, shards=False, threads=2).parse_args()
    torch.set_num_threads(arguments.threads)
    results, model = Results(arguments.out), stable_diffusion_1_4()

    count = sum(parameter.numel() for parameter in model.parameters().values())
    report = {"benchmark": "full_size", "unet_parameters": count}
    with tempfile.TemporaryDirectory() as folder:
        for scope in SCOPES[:1] if arguments.quick else SCOPES:
            report[scope] = results.get(scope, lambda s=scope: measure(model, s, Path(folder)))
            print(scope, report[scope], file=sys.stderr, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report["peak_memory_gib"] = round(peak / 2**20, 1)
    results.finish(report)


if __name__ == "__main__":
    main()
