"""How to solve when composing? Keep weight, ridge, which tokens count: without any picture.

    python benchmarks/solve_settings.py --out benchmarks/results/solve_settings.json

Over the studios' increments of ``subsets.py``, on latents of the base's own trajectories, by what
the denoiser predicts: the erasure degree of what is erased (1 untouched, 0 gone, lower is further),
and how far the predictions of what is kept move, as a share of the concept's own effect. Three
seeds of latents. Prints a table on stderr and one JSON object on stdout.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from harness import Results, begin, mean_and_extremes, parser
from projecting import Projecting
from studios import CANDIDATES, TAUGHT, with_keep_list

from multierase import Composer, Increment, KeepList, Library, Model
from multierase.emoji import STUDIOS, fill, with_article
from multierase.evaluation.erasers import Eraser
from multierase.increments.value import gram_factor
from multierase.models.conditioning import Conditioning
from multierase.training.objectives import erasure_degree
from multierase.training.trajectories import denoise_partway

TEMPLATES = {
    "listed": ("{a_subject} by {studio}", "{studio} {subject}"),
    "unlisted": CANDIDATES[1:3],
}
ERASED = {1: STUDIOS[2:3], 4: STUDIOS[1:8:2], 8: STUDIOS[1:]}
VARIANTS = {
    "sum": {"solve": "sum"},
    **{f"joint, keep weight {k}": {"keep_weight": k} for k in (0.0, 0.3, 1.0, 3.0, 10.0)},
    **{f"joint, ridge {r}": {"ridge": r} for r in (1e-4, 1e-3, 1e-2, 1e-1, 3e-1)},
    "joint, no keep-list": {"solve": "joint", "keep": None},
    "joint, all tokens": {"tokens": "all"},
    "joint, content tokens": {"tokens": "content"},
    **{f"project, tolerance {t}": {"tolerance": t} for t in (0.03, 0.1, 0.3)},
}
SAMPLER_STEPS, GUIDANCE = 10, 3.0
STREAM = "tokens"


@dataclass(frozen=True)
class Examples:
    """Latents of the base's own trajectories with its predictions.

    Args:
        studios: the studio that each is about.
        eps_concept, eps_context, eps_null: predictions for the sentence, for the sentence without
            its studio, and for the empty prompt.
    """

    studios: Sequence[str]
    x_t: torch.Tensor
    t: torch.Tensor
    text: Conditioning
    eps_concept: torch.Tensor
    eps_context: torch.Tensor
    eps_null: torch.Tensor


@torch.no_grad()
def examples(model: Model, templates: Sequence[str], seed: int) -> Examples:
    """Denoise latents of every studio partway."""
    rows = list(itertools.product(STUDIOS, templates, TAUGHT[:3]))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(rows), *model.latent_shape, generator=generator)
    stops = torch.randint(SAMPLER_STEPS, (len(rows),), generator=generator)

    sentences = [fill((template,), studio, subject)[0] for studio, template, subject in rows]
    text, null = model.encode(sentences), model.encode([""] * len(rows))
    context = model.encode([with_article(subject) for _, _, subject in rows])
    x_t, t = denoise_partway(
        model.predict,
        model.sampler(SAMPLER_STEPS),
        model.guide,
        noise,
        stops,
        text,
        null,
        GUIDANCE,
    )

    predictions = [model.predict(x_t, t, prompt) for prompt in (text, context, null)]
    return Examples([studio for studio, _, _ in rows], x_t, t, text, *predictions)


@torch.no_grad()
def measure(model: Model, found: Examples, erased: Sequence[str]) -> list[float]:
    """Return the degree of what is erased, and the relative change of what is kept."""
    now = model.predict(found.x_t, found.t, found.text)
    gone = torch.tensor([studio in erased for studio in found.studios])
    degree = erasure_degree(now[gone], found.eps_concept[gone], found.eps_context[gone])

    change = (now - found.eps_concept)[~gone].norm()
    own_effect = (found.eps_concept - found.eps_null)[~gone].norm()
    return [degree.item(), (change / own_effect).item()]


def recounted(model: Model, increment: Increment, tokens: str) -> Increment:
    """Return an increment whose Gram matrix counts other tokens.

    Args:
        tokens: ``all``, begin and padding too; ``content``, not even the end.
    """
    prompts = list(dict.fromkeys(increment.provenance.prompts))
    if tokens == "all":
        rows = model.tokens(prompts, STREAM)
    else:
        own = []
        for prompt in prompts:
            end = model.token_count(prompt) - 1
            own.append(model.tokens([prompt], STREAM)[1:end])
        rows = torch.cat(own)

    return replace(increment, grams={STREAM: gram_factor(rows)})


def eraser_of(model: Model, library: Library, keep: KeepList, variant: str) -> Eraser:
    """Return what erases by a variant of the solve."""
    options = {"keep": keep, **VARIANTS[variant]}
    tokens = options.pop("tokens", None)
    increments: Mapping[str, Increment] = library
    if tokens is not None:
        increments = {name: recounted(model, library[name], tokens) for name in library}

    kind = Projecting if "tolerance" in options else Composer
    return kind(model, increments, **options)


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument(
        "--work", type=Path, default=Path("build/subsets"), help="folder of the increments"
    )
    options.add_argument("--seeds", type=int, default=3)
    arguments = options.parse_args()
    model, results = begin(arguments, channels_last=False), Results(arguments.out)
    library, keep = with_keep_list(model, "decoupled", arguments.work, quick=arguments.quick)

    seeds = range(1 if arguments.quick else arguments.seeds)
    found = {}
    for (group, templates), seed in itertools.product(TEMPLATES.items(), seeds):
        found[group, seed] = examples(model, templates, seed)

    table: dict[str, dict] = {}
    for variant in VARIANTS:
        eraser, shown = eraser_of(model, library, keep, variant), []
        table[variant] = {group: {} for group in TEMPLATES}
        for group, (size, erased) in itertools.product(TEMPLATES, ERASED.items()):
            rows = []
            with eraser.erasing(*erased):
                for seed in seeds:
                    key = f"{variant}/{group}/{size}/{seed}"
                    own = found[group, seed]
                    rows.append(results.get(key, lambda f=own, e=erased: measure(model, f, e)))

            degrees, changes = zip(*rows, strict=True)
            cell = table[variant][group][size] = {
                "erased_degree": mean_and_extremes(degrees, digits=3),
                "kept_change": mean_and_extremes(changes, digits=3),
            }
            degree, change = cell["erased_degree"]["mean"], cell["kept_change"]["mean"]
            shown.append(f"{group} {size}: {degree:+.2f} / {change:.2f}")
        print(f"{variant:26s}", "  ".join(shown), file=sys.stderr, flush=True)

    results.finish(
        {
            "benchmark": "solve_settings",
            "templates": TEMPLATES,
            "off": ERASED,
            "seeds": len(seeds),
            "table": table,
        }
    )


if __name__ == "__main__":
    main()
