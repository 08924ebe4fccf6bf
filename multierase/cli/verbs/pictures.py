"""The verbs that use a composition: ``generate`` makes pictures, ``export`` files for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import Namespace

from multierase.cli.console import percent, print_table, say
from multierase.cli.requests import (
    announce,
    listed_in,
    open_workspace,
    settings_of,
    strengths_of,
    warn_of_deviations,
    warn_of_old_lists,
)
from multierase.errors import UsageError
from multierase.increments.library import Library
from multierase.increments.provenance import set_in_words
from multierase.interop.targets import TARGETS, ExportSettings
from multierase.sampling import SamplingSettings

if TYPE_CHECKING:
    from multierase.workspace import Workspace


USED = {
    "pipeline": "in Python, diffusers.DiffusionPipeline.from_pretrained({file!r}{absent})",
    "single-file": "put it among the checkpoints of ComfyUI, Forge or A1111",
    "kohya": "put it among the LoRAs of ComfyUI, Forge or A1111, and give it strength 1",
    "diff": "put it among the LoRAs of ComfyUI or Forge, and give it strength 1",
    "diffusers": "in Python, pipeline.load_lora_weights({file!r})",
    "hub-folder": "read its README.md, then hf upload OWNER/NAME {file}",
}
"""By format, what is done with the file next."""


def run_generate(arguments: Namespace) -> dict:
    """Make one picture for each prompt and seed, on one sheet."""
    if not arguments.prompts:
        raise UsageError(
            "give at least one prompt, right after the verb: multierase generate "
            '"a church by Noto" --out sheet.png'
        )
    if arguments.images < 1:
        raise UsageError(f"--images {arguments.images}: give 1 or more")
    settings, strengths = settings_of(SamplingSettings, arguments), _wanted(arguments)

    from multierase.pictures import (
        comparison,
        erased_in_words,
        require_picture_name,
        save_picture,
    )

    require_picture_name(arguments.out)
    workspace = _opened(arguments)

    prompts = list(arguments.prompts) * arguments.images
    rows = range(arguments.seed, arguments.seed + arguments.images)
    seeds = [seed for seed in rows for _ in arguments.prompts]
    states = {}
    for erased in [{}, strengths] if arguments.compare else [strengths]:
        workspace.set(erased)
        pictures = workspace.generate(prompts, seeds, settings, progress=True)
        states[erased_in_words(workspace.erased)] = pictures
    save_picture(comparison(states, arguments.prompts, rows), arguments.out)

    return {
        "file": arguments.out,
        "prompts": prompts,
        "seeds": seeds,
        "rows": list(states),
        **_state(workspace),
    }


def print_generate(report: dict) -> None:
    _print_state(report)
    if not report["erased"]:
        say("nothing is erased: these are the base's pictures (--erase NAME erases)")
    say(f"wrote {report['file']}, with rows: {'; '.join(report['rows'])}")


def run_export(arguments: Namespace) -> dict:
    """Write the base with concepts erased, or what erasing them adds to it, for other tools."""
    announce(f"loading {arguments.base}")
    from multierase.interop.exporting import require_target

    settings = settings_of(ExportSettings, arguments)
    require_target(arguments.to, arguments.out, overwrite=arguments.overwrite)
    strengths = _wanted(arguments)
    workspace = _opened(arguments, said=True)
    workspace.set(strengths)
    written = workspace.export(arguments.out, arguments.to, settings, overwrite=arguments.overwrite)

    return {**written, **_state(workspace)}


def print_export(report: dict) -> None:
    _print_state(report)
    target = TARGETS[report["to"]]
    if "error" in report:
        say(f"the file loses {report['error']:.1e} of the change of the weights")
    for which, found in report.get("certificate", {}).items():
        say(f"{which}: {set_in_words(found)}")
    if target.adds:
        say(
            "tools add such files up, and sums of erasures harm what is kept: to erase another "
            "set, export that set as one file"
        )
    say(f"wrote {report['file']}: {target.about}")
    if report["to"] in USED:
        absent = "".join(f", {name}=None" for name in report.get("absent", ()))
        say(f"next: {USED[report['to']].format(file=report['file'], absent=absent)}")


def _wanted(arguments: Namespace) -> dict[str, float]:
    """Read what to erase, by name the strength, and check it before anything loads."""
    if arguments.erase and arguments.library is None:
        raise UsageError("--erase needs --library, the folder of increments")
    library = Library(arguments.library) if arguments.library is not None else None
    strengths = strengths_of(arguments.erase, library or ())
    if library is not None:
        library.require(list(strengths))

    both = sorted(set(strengths) & set(arguments.keep))
    if both:
        raise UsageError(f"both to erase and to keep: {both}; decide for one")
    warn_of_old_lists(arguments, "keep")
    return strengths


def _opened(arguments: Namespace, *, said: bool = False) -> Workspace:
    """Open a workspace with the flags of a composition."""
    keep = [*listed_in(arguments.keep_file), *arguments.keep]
    composed = {"solve": arguments.solve, "keep_weight": arguments.keep_weight}

    return open_workspace(arguments, said=said, keep=keep, **composed)


def _state(workspace: Workspace) -> dict:
    """What is erased, and how far each effect is from that of its increment alone."""
    erased = dict(workspace.erased)
    deviations = workspace.composer.deviations() if erased else {}
    warn_of_deviations(deviations)

    return {"erased": erased, "deviations": deviations}


def _print_state(report: dict) -> None:
    rows = [
        (name, strength, percent(report["deviations"].get(name)))
        for name, strength in report["erased"].items()
    ]
    if rows:
        print_table("erased", ("concept", "strength", "differs from alone by"), rows)
