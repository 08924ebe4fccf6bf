"""Does the real size work? A published architecture: erase, store, compose, restore.

    python benchmarks/full_size.py --out benchmarks/results/full_size.json
    python benchmarks/full_size.py --base sdxl --out benchmarks/results/full_size_sdxl.json

The weights are random, so nothing is learned about pictures: it shows that the code runs at this
size, what memory it takes, what an increment weighs, and that restoring is exact. Stable Diffusion
1.4 takes ten minutes on two cores and about 12 GiB. Stable Diffusion XL has its whole denoiser at
512 pixels, short text towers of the real widths, and its exact scope alone.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import torch
from harness import Results, parser, timed
from sd14 import stable_diffusion_1_4
from sdxl import stable_diffusion_xl

from multierase import Composer, EraseSettings, KeepList, Library, Model, erase
from multierase.files import digest_tensors

CONCEPTS = ("Noto", "Twemoji")
BASES = {
    "sd14": (stable_diffusion_1_4, ("esd-x-strict", "esd-x")),
    "sdxl": (stable_diffusion_xl, ("esd-x-strict",)),
}


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
        kind="none",  # random weights understand no sentence
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
    options = parser(__doc__, shards=False, threads=2)
    options.add_argument("--base", choices=BASES, default="sd14")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    make, scopes = BASES[arguments.base]
    results, model = Results(arguments.out), make()

    count = sum(parameter.numel() for parameter in model.parameters().values())
    report = {"benchmark": "full_size", "base": arguments.base, "unet_parameters": count}
    with tempfile.TemporaryDirectory() as folder:
        for scope in scopes[:1] if arguments.quick else scopes:
            report[scope] = results.get(scope, lambda s=scope: measure(model, s, Path(folder)))
            print(scope, report[scope], file=sys.stderr, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report["peak_memory_gib"] = round(peak / 2**20, 1)
    results.finish(report)


if __name__ == "__main__":
    main()
