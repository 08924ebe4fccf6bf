"""Make small increments, composed weights and pictures, and print their digests as JSON.

    OMP_NUM_THREADS=1 MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default \
        python tests/golden/record.py

With these variables the bits are the same on every x86-64 processor. ``before_the_move.json`` has
the digests of version 0.1, made by the same calls before the code was moved to its present house;
but those of Gram matrices, and of what the joint solve makes of them, were recorded again when a
concept's tokens came to be those that its context does not have. Sums kept their bits.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping

import torch

from multierase import (
    Composer,
    Concept,
    EraseSettings,
    Increment,
    KeepList,
    Library,
    Model,
    SamplingSettings,
    erase,
    erase_several,
    load_base,
)
from multierase.files import digest_tensors
from multierase.generate import generate
from multierase.increments.value import Factors

POOLED = {"trajectories": 8, "sampler_steps": 6}
# What version 0.1 did without being asked, in the defaults' place.
BEFORE = {
    "kind": "none",
    "trajectories": 16,
    "prompts_per_point": 1,
    "start_at": 1.0,
    "steps": 60,
    "learning_rate": 0.1,
}
SHORT = {"steps": 2, "batch_size": 2, "sampler_steps": 4}
PROMPTS, SEEDS = ["a church by Noto", "a cat by Twemoji"], [1, 2]


def digests_of(increment: Increment) -> dict:
    tensors = {f"gram.{stream}": gram for stream, gram in increment.grams.items()}
    for name, delta in increment.deltas.items():
        if isinstance(delta, Factors):
            tensors |= {f"{name}.up": delta.up, f"{name}.down": delta.down}
        else:
            tensors[name] = delta

    return {
        "digest": digest_tensors(tensors, length=32),
        "norm": increment.norm(),
        "evaluations": increment.provenance.cost.evaluations,
        "degree": increment.provenance.stop.degree,
    }


def single(model: Model) -> dict[str, tuple[Increment, dict]]:
    """Erase one concept at a time, by every schedule and in most scopes."""
    cases = {
        "pooled strict": ("Twemoji", {"steps": 16, **POOLED}),
        "pooled strict, seed 3": ("Noto", {"steps": 12, "seed": 3, **POOLED}),
        "frozen esd-x, keep loss": (
            "Firefox",
            {
                "scope": "esd-x",
                "schedule": "frozen",
                "keep_weight": 1.0,
                "keep": ("a church by Noto",),
                **SHORT,
            },
        ),
        "student esd-u, free": (
            "Firefox",
            {"scope": "esd-u", "schedule": "student", "decouple": False, **SHORT},
        ),
        "full, l2, erase_from": (
            Concept("Firefox", erase_from="a cat by Firefox"),
            {"scope": "full", "regularizer": "l2", "beta": 1e-3, "known": False, **SHORT},
        ),
    }
    found = {}
    for name, (concept, settings) in cases.items():
        increment = erase(model, concept, EraseSettings(**{**BEFORE, **settings}))
        found[name] = increment, digests_of(increment)

    return found


def several(model: Model) -> dict[str, dict]:
    """Erase two concepts in one run."""
    names = ["Fluent", "EmojiOne"]
    asked = {"regularizer": "l1", "known": False, "schedule": "frozen", "keep": ("Noto",), **SHORT}
    under = EraseSettings(**{**BEFORE, **asked})
    found = {}
    for increment in erase_several(model, names, under, method="sepme", simultaneous=True):
        found[f"correlation, simultaneous {increment.concept}"] = digests_of(increment)
    for increment in erase_several(model, names, EraseSettings(**{**BEFORE, "steps": 6, **POOLED})):
        found[f"one batch {increment.concept}"] = digests_of(increment)

    return found


def composed(model: Model, library: Library, keep: KeepList) -> dict[str, dict]:
    """Compose two increments in several ways, and make pictures."""
    cases = {
        "joint": ({"keep": keep}, {"Twemoji": 1.0, "Noto": 0.5}),
        "joint, one": ({"keep": keep}, {"Noto": 1.0}),
        "joint, no list": ({"solve": "joint"}, {"Noto": 1.0}),
        "sum": ({"solve": "sum"}, {"Twemoji": 1.0, "Noto": 1.0}),
    }
    found = {}
    for name, (options, erased) in cases.items():
        composer = Composer(model, library, **options)
        composer.set(erased)
        pictures = generate(model, PROMPTS, SEEDS, SamplingSettings(inference_steps=4))
        found[f"composed: {name}"] = {
            "digest": digest_tensors(model.parameters(), length=32),
            "pictures": digest_tensors({"p": (pictures * 255).round().byte()}, length=32),
            "deviations": composer.deviations(),
        }
        composer.close()

    return found


def record() -> Mapping[str, object]:
    torch.set_num_threads(1)
    model = load_base("emoji", device="cpu")
    increments = single(model)
    found: dict[str, object] = {name: digests for name, (_, digests) in increments.items()}
    found |= several(model)

    with tempfile.TemporaryDirectory() as folder:
        library = Library(folder)
        for name in ("pooled strict", "pooled strict, seed 3"):
            library.save(increments[name][0])
        keep = KeepList.cached(folder, model, model.known_prompts, library)
        found |= composed(model, library, keep)
        found["crosstalk"] = Composer(model, library, keep=keep).crosstalk()

    return found


if __name__ == "__main__":
    logging.disable()
    print(json.dumps(record(), indent=1))
