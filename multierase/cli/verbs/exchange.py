"""The verb ``import``: another tool's file in, an increment out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import Namespace

from multierase.cli.console import percent, print_table, say, shown
from multierase.cli.requests import announce, listed_in, open_workspace, settings_of
from multierase.cli.verbs.erase import look_at
from multierase.errors import UsageError
from multierase.increments.library import Library
from multierase.increments.provenance import in_words, step_in_words
from multierase.interop.sources import ImportSettings


def run_import(arguments: Namespace) -> dict:
    """Import one file into the library."""
    if not arguments.file:
        raise UsageError(
            "name a file or a folder, right after the verb: "
            "multierase import FILE --concept NAME --library FOLDER"
        )
    settings, folder = settings_of(ImportSettings, arguments), Path(arguments.library)
    keep = listed_in(arguments.keep_file)
    if folder.is_dir():
        targets = Library(folder)
        targets.check_targets([arguments.concept], overwrite=arguments.overwrite)

    announce(f"reading {arguments.file}")
    from multierase.interop.reading import read
    from multierase.interop.sources.choice import recognise

    # What is wrong with the file alone is said before a base is loaded.
    found = read(arguments.file)
    recognise(found)
    with _without_traces(folder):
        workspace = open_workspace(arguments, create=True, keep=keep)
        imported = workspace.import_file(
            found,
            arguments.concept,
            settings,
            overwrite=arguments.overwrite,
            progress=True,
        )

    increment = imported.increment
    made, (step, *_) = increment.provenance, increment.history
    certificate = dict(made.certificate or {})
    certificate.pop("questions", None)
    return {
        "concept": increment.concept,
        "file": str(imported.path),
        "source": str(found.path),
        "base": increment.base.name,
        **{key: value for key, value in step.items() if key not in ("step", "file")},
        "method": made.method,
        "scope": made.scope,
        "parameters": len(increment.deltas),
        "summed": len(increment.deltas) - len(increment.readers),
        "seconds": made.cost and made.cost.seconds,
        "certificate": certificate or None,
    }


def print_import(report: dict) -> None:
    parameters = f"{report['parameters']}, of which {report['summed']} do not read the text alone"
    left_out = []
    for part, counts in report.get("left_out", {}).items():
        some = [f"{count} {what}" for what, count in counts.items() if count]
        left_out.append(f"{part}: {', '.join(some)}")
    kept, erased = report.get("effect_kept"), report["concepts"]
    if report.get("projected"):
        erased = [report["concept"]]
    rows = [
        ("file", report["file"]),
        ("from", report["from"]),
        ("method", report["method"]),
        ("scope", report["scope"] or None),
        ("erases", erased),
        ("parameters", parameters),
        ("left as they were", report.get("unchanged")),
        ("dropped", report.get("dropped") or None),
        ("left out", left_out or None),
        ("compared in", report["dtype"]),
        ("size beside the weights", percent(report["size"])),
        ("effect kept", None if kept is None else percent(kept)),
        ("seconds", report["seconds"]),
    ]
    told = [(name, value) for name, value in rows if value not in (None, "-")]
    print_table(str(report["concept"]), ("", ""), told)

    step = {**report, "step": "imported", "file": Path(report["source"]).name}
    say(f"{report['concept']}: {step_in_words(step)}")
    if report["certificate"]:
        say(f"{report['concept']}: {in_words(report['certificate'])}")
    if not report["separable"] and not report.get("projected"):
        say(
            f"it erases {shown(report['concepts'])} together: it can be applied and removed as a "
            "whole; --project takes one concept's part out of it"
        )
    look_at(report)


@contextlib.contextmanager
def _without_traces(folder: Path) -> Iterator[None]:
    """Remove the folders that were made for an import that failed, as long as they are empty."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # it holds something by now, or never was made
            for one in made:
                one.rmdir()
        raise
