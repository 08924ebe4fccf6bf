"""The verbs that show a composition: ``generate`` writes pictures, ``compose`` a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from multierase.cli.console import percent, print_table, say
from multierase.cli.requests import (
    listed_in,
    open_workspace,
    settings_of,
    strengths_of,
    warn_of_deviations,
    warn_of_old_lists,
)
from multierase.errors import UsageError
from multierase.increments.library import Library
from multierase.sampling import SamplingSettings

if TYPE_CHECKING:
    from multierase.workspace import Workspace


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

    from multierase.pictures import contact_sheet, require_picture_name, save_picture

    require_picture_name(arguments.out)
    workspace = _composed(arguments, strengths)

    prompts = list(arguments.prompts) * arguments.images
    rows = range(arguments.seed, arguments.seed + arguments.images)
    seeds = [seed for seed in rows for _ in arguments.prompts]
    pictures = workspace.generate(prompts, seeds, settings, progress=True)
    sheet = contact_sheet(pictures, len(arguments.prompts), column_labels=arguments.prompts)
    save_picture(sheet, arguments.out)

    return {
        "file": arguments.out,
        "prompts": prompts,
        "seeds": seeds,
        **_state(workspace),
    }


def print_generate(report: dict) -> None:
    _print_state(report)
    say(f"wrote {report['file']}")


def run_compose(arguments: Namespace) -> dict:
    """Write the base with concepts erased as a pipeline that needs no multierase."""
    workspace = _composed(arguments, _wanted(arguments))
    folder = workspace.export(arguments.out)

    return {"folder": str(folder), **_state(workspace)}


def print_compose(report: dict) -> None:
    _print_state(report)
    say(f"wrote {report['folder']}: a diffusers pipeline")


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


def _composed(arguments: Namespace, strengths: Mapping[str, float]) -> Workspace:
    """Open a workspace and erase what is wanted."""
    keep = [*listed_in(arguments.keep_file), *arguments.keep]
    workspace = open_workspace(
        arguments, solve=arguments.solve, keep=keep, keep_weight=arguments.keep_weight
    )
    workspace.set(strengths)
    return workspace


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
