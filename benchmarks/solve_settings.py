"""How to solve when composing? Keep weight, ridge, which tokens count: by what the U-Net predicts, without pictures.

    python benchmarks/solve_settings.py --out benchmarks/results/solve_settings.json

Over the studios' increments of ``subsets.py``, on latents of the base's own trajectories: the erasure degree of what is
erased (1 untouched, 0 gone, lower is further) and how far the predictions of what is kept move, as a share of the
concept's own effect. Three seeds of latents. Prints a table on stderr and one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
from pathlib import Path

import torch
from harness import Results
from subsets import CANDIDATES, SUBJECTS, library_of

from multierase.base import Base, load_base
from multierase.composer import Composer
from multierase.concepts import EMOJI_STUDIOS, fill, with_article
from multierase.decoupling import KeepList
from multierase.increments import Increment, gram_factor
from multierase.objectives import erasure_degree
from multierase.trajectories import denoise_partway

TEMPLATES = {"listed": ("{a_subject} by {studio}", "{studio} {subject}"), "unlisted": CANDIDATES[1:3]}
OFF = {1: EMOJI_STUDIOS[2:3], 4: EMOJI_STUDIOS[1:8:2], 8: EMOJI_STUDIOS[1:]}
VARIANTS = {
    "sum": {"solve": "sum"},
    **{f"joint, keep weight {k}": {"solve": "joint", "keep_weight": k} for k in (0.0, 0.3, 1.0, 3.0, 10.0)},
    **{f"joint, ridge {ridge}": {"solve": "joint", "ridge": ridge} for ridge in (1e-4, 1e-3, 1e-2, 1e-1, 3e-1)},
    "joint, no keep-list": {"solve": "joint", "keep": None},
    "joint, all tokens": {"solve": "joint", "tokens": "all"},
    "joint, content tokens": {"solve": "joint", "tokens": "content"},
    **{f"project, tolerance {t}": {"solve": "project", "tolerance": t} for t in (0.03, 0.1, 0.3)},
}  # fmt: skip
SAMPLER_STEPS = 10


def examples(base: Base, templates: tuple[str, ...], seed: int) -> dict:
    """Latents of the base's own trajectories with its predictions."""
    rows = list(itertools.product(EMOJI_STUDIOS, templates, SUBJECTS[:3]))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(rows), *base.latent_shape, generator=generator)
    stops = torch.randint(SAMPLER_STEPS, (len(rows),), generator=generator)
    text = base.text([fill((template,), studio, subject)[0] for studio, template, subject in rows])
    context, null = base.text([with_article(row[2]) for row in rows]), base.text([""] * len(rows))
    with torch.no_grad():
        x_t, t = denoise_partway(
            base.predict_noise, base.sampler(SAMPLER_STEPS), noise, stops, text, null, guidance_scale=3.0
        )
        eps = [base.predict_noise(x_t, t, prompt) for prompt in (text, context, null)]
    return {"studios": [row[0] for row in rows], "inputs": (x_t, t, text), "eps": eps}


def measure(base: Base, found: dict, off: tuple[str, ...]) -> list[float]:
    """Degree of the erased, relative change of the kept."""
    concept, context, null = found["eps"]
    with torch.no_grad():
        now = base.predict_noise(*found["inputs"])
    erased = torch.tensor([studio in off for studio in found["studios"]])
    degree = erasure_degree(now[erased], concept[erased], context[erased]).item()
    change = (now - concept)[~erased].norm() / (concept - null)[~erased].norm()
    return [degree, change.item()]


def recounted(base: Base, increment: Increment, tokens: str) -> Increment:
    """An increment whose Gram matrix is of other tokens: ``all``, begin and padding too; ``content``, no end either."""
    prompts = list(dict.fromkeys(increment.info["prompts"]))
    if tokens == "all":
        rows = base.text(prompts).flatten(0, 1)
    else:
        rows = torch.cat([base.text([p])[0, 1 : len(base.text.tokens(p)) - 1] for p in prompts])
    return dataclasses.replace(increment, gram=gram_factor(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/subsets"), help="folder of the increments")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = load_base("emoji", device="cpu")
    results = Results(args.out, "0/1")
    library = library_of(base, "decoupled", args.work)
    keep = KeepList.of(base.text, base.known_prompts, library)
    found = {(g, seed): examples(base, t, seed) for g, t in TEMPLATES.items() for seed in range(args.seeds)}
    table: dict[str, dict] = {}
    for variant, options in VARIANTS.items():
        options = {"keep": keep, **options}
        tokens = options.pop("tokens", None)
        increments = {n: recounted(base, library[n], tokens) for n in library} if tokens else library
        composer = Composer(base.unet, increments, **options)
        for group, (size, off) in itertools.product(TEMPLATES, OFF.items()):
            with composer.erased(*off):
                rows = [
                    results.get(f"{variant}/{group}/{size}/{s}", lambda f=found[group, s], o=off: measure(base, f, o))
                    for s in range(args.seeds)
                ]
            cell = {
                name: {"mean": round(statistics.mean(v), 3), "min": round(min(v), 3), "max": round(max(v), 3)}
                for name, v in zip(("erased_degree", "kept_change"), zip(*rows, strict=True), strict=True)
            }
            table.setdefault(variant, {}).setdefault(group, {})[size] = cell
        line = "  ".join(
            f"{group} {size}: {c['erased_degree']['mean']:+.2f} / {c['kept_change']['mean']:.2f}"
            for group, sizes in table[variant].items()
            for size, c in sizes.items()
        )
        print(f"{variant:26s}", line, file=sys.stderr, flush=True)
    report = {
        "benchmark": "solve_settings", "templates": TEMPLATES, "off": OFF, "seeds": args.seeds, "table": table,
    }  # fmt: skip
    results.finish(report)


if __name__ == "__main__":
    main()
