"""A folder to upload to a model hub: a library of increments, and what other tools read of it.

Its increments lie at the top, so that the folder is a library: ``Library("hf://owner/name")``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from multierase.increments.provenance import Provenance, in_words
from multierase.increments.value import Increment
from multierase.interop.outgoing import Outgoing
from multierase.interop.targets import diffusers

LORA, INTERFACES, PICTURES = "diffusers", "comfyui", "pictures"
FILE, PICTURE = "erase.safetensors", "base-and-erased.png"
UNKNOWN = "other"
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def card(outgoing: Outgoing, library: Mapping[str, Increment], given: str | None) -> str:
    """Return the model card, in Markdown, with the metadata that a hub reads on top.

    Args:
        given: the base's licence; by default what the base's own card says.
    """
    made = {concept: library[concept].provenance for concept in outgoing.erased}
    license = given or license_of(outgoing.model.name)
    metadata: dict[str, Any] = {
        "base_model": outgoing.model.name,
        "base_model_relation": "adapter",
        "library_name": "multierase",
        "license": license or UNKNOWN,
        "pipeline_tag": "text-to-image",
        "tags": ["concept-erasure", "multierase", "lora"],
    }
    if not license:
        metadata["license_name"] = "that-of-the-base"
    front = yaml.safe_dump(metadata, sort_keys=True, allow_unicode=True)

    return f"---\n{front}---\n\n" + "\n\n".join(_paragraphs(outgoing, made)) + "\n"


def license_of(base: str) -> str | None:
    """Return the licence that a base's folder states in its own card, if it is a folder."""
    path = Path(base) / "README.md"
    if not path.is_file():
        return None
    found = FRONT_MATTER.match(path.read_text("utf-8", errors="replace"))
    try:
        stated = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError:
        return None

    license = stated.get("license") if isinstance(stated, dict) else None
    return license if isinstance(license, str) else None


def _paragraphs(outgoing: Outgoing, made: Mapping[str, Provenance]) -> list[str]:
    names = ", ".join(outgoing.erased)
    base = outgoing.model.name
    picture = []
    if outgoing.picture is not None:
        picture.append(f"![the base beside the base without {names}]({PICTURES}/{PICTURE})")
        picture.append(f"Both drew: {outgoing.about['prompt']}")
    settings = [
        f"- **{concept}**: {one.method}, scope {one.scope or 'not stated'}, seed {one.seed}, "
        f"multierase {one.version or 'not stated'}"
        for concept, one in made.items()
    ]
    cut = f"{outgoing.error:.1e} of the change of the weights"

    return [
        f"# {base} without {names}",
        f"Weight increments that make `{base}` forget: {names}. Each concept is one file, and can "
        "be erased or restored alone; all of them restored, the base has its own bits again.",
        *picture,
        _table(outgoing, made),
        "## How to use it",
        "With multierase, any set of the concepts:",
        _code(
            "from multierase import Workspace",
            "",
            f'workspace = Workspace("hf://OWNER/NAME", "{base}")',
            f"workspace.erase({', '.join(repr(name) for name in outgoing.erased)})",
        ),
        "With diffusers, all of them together, as they were composed:",
        _code(
            "pipeline.load_lora_weights(",
            f'    "OWNER/NAME", subfolder="{LORA}", weight_name="{diffusers.LORA}"',
            ")",
        ),
        f"With ComfyUI, Forge or A1111: `{INTERFACES}/{FILE}`, at strength 1. Interfaces add files "
        "up, and sums of erasures harm what is kept: for another set, export that set.",
        "## How it was made",
        "\n".join(settings),
        f"The set was composed by the solve `{outgoing.about['solve']}`. The LoRA loses {cut}.",
        "## What it is not",
        "Erasure here can be undone by whoever has the base. It keeps honest users from drawing "
        "the concepts, and is no security measure.",
        "The licence is the base's: the increments are made from its weights.",
    ]


def _table(outgoing: Outgoing, made: Mapping[str, Provenance]) -> str:
    rows = [
        "| concept | strength | alone, on sentences that it was not made with |",
        "|---|---|---|",
    ]
    for concept, one in made.items():
        words = in_words(one.certificate) if one.certificate else "not certified"
        name = concept.replace("|", r"\|")
        rows.append(f"| {name} | {outgoing.erased[concept]:g} | {words} |")
    table = "\n".join(rows)

    together = outgoing.about.get("certificate", {}).get("file")
    if not together:
        return table
    moved = "; ".join(f"{side} move by {share:.0%}" for side, share in together["moved"].items())
    gone = f"gone in {together['gone']:.0%} of unseen sentences; " if "gone" in together else ""
    return f"{table}\n\nTogether: {gone}{moved}."


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])
