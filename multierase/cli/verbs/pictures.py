"""The verbs that use a composition: ``generate`` makes pictures, ``export`` files for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
from multierase.interop.targets import TARGETS, ExportSettings
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


def run_export(arguments: Namespace) -> dict:
    """Write the base with concepts erased, or what erasing them adds to it, for other tools."""
    from multierase.interop.exporting import require_target

    settings = settings_of(ExportSettings, arguments)
    require_target(arguments.to, arguments.out, overwrite=arguments.overwrite)
    workspace = _composed(arguments, _wanted(arguments))
    written = workspace.export(arguments.out, arguments.to, settings, overwrite=arguments.overwrite)

    return {**written, **_state(workspace)}


def print_export(report: dict) -> None:
    _print_state(report)
    target = TARGETS[report["to"]]
    if "error" in report:
        say(f"the file loses {report['error']:.1e} of the change of the weights")
    for which, found in report.get("certificate", {}).items():
        say(f"{which}: {_in_words(found)}")
    if target.adds:
        say(
            "tools add such files up, and sums of erasures harm what is kept: to erase another "
            "set, export that set as one file"
        )
    say(f"wrote {report['file']}: {target.about}")


def _in_words(certificate: Mapping[str, Any]) -> str:
    """Return the certificate of a set in plain words."""
    words = []
    if "gone" in certificate:
        words.append(f"gone in {percent(certificate['gone'])} of unseen sentences")
    words += [f"{side} move by {percent(share)}" for side, share in certificate["moved"].items()]

    return "; ".join(words)


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
