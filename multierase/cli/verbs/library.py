"""The verbs about a folder of increments: list, show, validate, compress, rename and others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from multierase.cli.console import (
    DEGREE,
    counted,
    next_step,
    percent,
    print_table,
    say,
    shown,
)
from multierase.cli.requests import (
    announce,
    listed_in,
    open_workspace,
    warn_of_entangled,
)
from multierase.errors import UsageError
from multierase.increments.library import Library
from multierase.increments.provenance import in_words, step_in_words

if TYPE_CHECKING:
    from multierase.increments.header import Header

LISTED = ("concept", "method", "scope", "gone", "degree", "steps", "kB", "evaluations", "base")


def run_ls(arguments: Namespace) -> dict:
    """List the sound files of a library by their headers, and what is wrong with the others."""
    library = Library(arguments.library)
    problems = [{"file": str(path), "problem": why} for path, why in library.problems().items()]
    rows = [_row(header) for header in library.headers().values()]

    return {"library": arguments.library, "increments": rows, "problems": problems}


def print_ls(report: dict) -> None:
    rows = report["increments"]
    cells = [
        (
            row["concept"],
            row["method"],
            row["scope"],
            percent(row["gone"]),
            row["erasure_degree"],
            row["steps"],
            row["bytes"] / 1e3,
            row["evaluations"],
            row["base"],
        )
        for row in rows
    ]
    title = f"{report['library']}: {counted(len(rows), 'increment')}"
    if rows:
        print_table(title, LISTED, cells)
        say(f"gone: of unseen sentences, 100% is best; degree: {DEGREE}")
    else:
        say(title)
        next_step("erase", "NAME", "--library", report["library"])
    _print_problems(report["problems"])


def _row(header: Header) -> dict[str, Any]:
    made = header.provenance
    return {
        "concept": header.concept,
        "file": str(header.path),
        "method": made.method,
        "scope": made.scope,
        "gone": made.certificate and made.certificate.get("gone"),
        "stop_reason": made.stop and made.stop.reason,
        "erasure_degree": made.stop and made.stop.degree,
        "steps": made.stop and made.stop.steps,
        "evaluations": made.cost and made.cost.evaluations,
        "base": header.base.name,
        "bytes": header.bytes,
    }


def _print_problems(problems: list[dict]) -> None:
    if problems:
        rows = [(Path(row["file"]).name, row["problem"]) for row in problems]
        print_table(f"not sound: {counted(len(rows), 'file')}", ("file", "problem"), rows)


def run_show(arguments: Namespace) -> dict:
    """Read all that one increment's file says, and measure it."""
    if not arguments.concept:
        raise UsageError("name a concept: multierase show NAME --library FOLDER")
    library = Library(arguments.library)
    header = library.header(arguments.concept)
    increment = library[arguments.concept]

    return {
        **_row(header),
        "norm": increment.norm(),
        "stored_as": header.stored,
        "format_version": header.format_version,
        "sha256": header.sha256,
        "parameters": {name: list(shape) for name, shape in increment.shapes.items()},
        "history": [dict(step) for step in increment.history],
        **increment.provenance.as_dict(),
    }


def print_show(report: dict) -> None:
    print_table(str(report["concept"]), ("", ""), _results(report))
    say("--json has all of it: every prompt and setting, the degree of each step")


def _results(report: dict) -> list[tuple[str, object]]:
    """The results of an erasure, each once and in a few words."""
    made_by = [report["method"], report["scope"], f"multierase {report['version'] or '?'}"]
    stored = f"{len(report['parameters'])} parameters, {shown(report['bytes'] / 1e3)} kB"
    seed = None if "seed" in report["settings"] else report["seed"]
    rows = [
        ("file", report["file"]),
        ("base", report["base"]),
        ("made by", ", ".join(part for part in made_by if part)),
        ("certificate", report["certificate"] and in_words(report["certificate"])),
        ("degree", _degree(report["stop"])),
        ("prompts", _listed(report["prompts"])),
        ("anchor", report["anchor"] or None),
        ("erased from", report["erase_from"]),
        ("kept", _kept(report["separation"] or {})),
        ("cost", _cost(report["cost"])),
        ("stored", f"{stored}, {report['stored_as']}"),
        ("since then", _listed([step_in_words(step) for step in report["history"]])),
        ("settings", _unlike_defaults(report["settings"])),
        ("seed", seed),
    ]
    return [(name, value) for name, value in rows if value not in (None, "", {}, "-")]


def _degree(stop: dict | None) -> str | None:
    """Say how far the training came, and what its number means."""
    if stop is None or stop["degree"] is None:
        return None
    why = f"after {stop['steps']} steps, stopped by {stop['reason']}"

    return f"{shown(stop['degree'])} {why}; {DEGREE}"


def _kept(separation: dict) -> str:
    """Say what the training held still, exactly and in the mean."""
    words = []
    exactly = [repr(prompt) for prompt in separation.get("kept_exactly", []) if prompt]
    if exactly:
        words.append(f"exactly {_listed(exactly)}")
    mean = separation.get("kept_in_mean") or {}
    for key, what in (("prompts", "prompts"), ("dictionary", "sentences of the dictionary")):
        if mean.get(key):
            words.append(f"{mean[key]} {what}")

    return ", ".join(words)


def _cost(cost: dict | None) -> str | None:
    if cost is None:
        return None
    memory = cost.get("peak_memory_mib")
    at_most = f", {shown(memory)} MiB at most" if memory else ""

    return f"{cost['evaluations']} evaluations, {shown(cost['seconds'])} s{at_most}"


def _unlike_defaults(settings: dict) -> str:
    """Show the settings that are not what an erasure takes by itself."""
    from multierase.interop.sources import ImportSettings
    from multierase.training.defaults import DEFAULT_ETA
    from multierase.training.settings import EraseSettings

    usual: dict[str, object] = {}
    for kind in (ImportSettings, EraseSettings):
        for field in dataclasses.fields(kind):
            default = field.default
            usual[field.name] = list(default) if isinstance(default, tuple) else default
    usual |= {"eta": DEFAULT_ETA, "rank": 0}  # what is taken in the place of none
    usual["scope"] = settings.get("scope")  # it has a line of its own

    unlike = [name for name, value in settings.items() if name in usual and value != usual[name]]
    words = [f"{name} {_listed(settings[name])}" for name in unlike]
    # Another tool's file may say much of itself, pictures included.
    foreign = len(settings.keys() - usual.keys())
    if foreign:
        words.append(f"{foreign} entries of the file that it came from")
    return "; ".join(words) or ("all as by default" if settings else "")


def _listed(value: object, most: int = 3) -> str:
    """Show a list by its first few items."""
    if not isinstance(value, list):
        return shown(value)

    more = [f"and {len(value) - most} more"] if len(value) > most else []
    return ", ".join([*map(shown, value[:most]), *more]) or "-"


def run_validate(arguments: Namespace) -> dict:
    """Check that every file fits the base and can be composed, alone and with the others."""
    Library(arguments.library)  # a folder that is not there is told before the base is loaded
    checked = list(open_workspace(arguments).validate())
    files = [
        {"file": str(path), "sound": problem is None, "problem": problem}
        for path, problem in checked
    ]
    sound = all(row["sound"] for row in files)

    return {"library": arguments.library, "files": files, "sound": sound}


def print_validate(report: dict) -> None:
    rows = [
        (Path(row["file"]).name, "sound" if row["sound"] else row["problem"])
        for row in report["files"]
    ]
    print_table(f"{report['library']}: {counted(len(rows), 'file')}", ("file", ""), rows)


def run_compress(arguments: Namespace) -> dict:
    """Write compressed copies into another library."""
    library = Library(arguments.library)
    concepts = arguments.concepts or list(library.headers())
    library.require(concepts)
    if not concepts:
        raise UsageError(f"{arguments.library} holds no increment: there is nothing to compress")
    smaller = Library(arguments.out, create=True)
    smaller.check_targets(concepts, overwrite=arguments.overwrite)

    announce(f"compressing {counted(len(concepts), 'increment')}")
    import torch

    from multierase.increments.compression import compress

    rows = []
    for concept in concepts:
        before = library.path(concept).stat().st_size
        compressed = compress(library[concept], arguments.error, getattr(torch, arguments.dtype))
        file = smaller.save(compressed, overwrite=arguments.overwrite)
        sizes = {"bytes_before": before, "bytes": file.stat().st_size}
        lost = compressed.history[-1]["error"]
        rows.append({"concept": concept, "file": str(file), **sizes, "error": lost})

    return {"out": arguments.out, "increments": rows}


def print_compress(report: dict) -> None:
    columns = ("concept", "kB before", "kB", "norm lost")
    rows = [
        (row["concept"], row["bytes_before"] / 1e3, row["bytes"] / 1e3, percent(row["error"]))
        for row in report["increments"]
    ]
    print_table(f"compressed into {report['out']}", columns, rows)
    next_step("validate", "--library", report["out"])


def run_rename(arguments: Namespace) -> dict:
    """Give a concept another name."""
    if len(arguments.names) != 2:
        raise UsageError(
            f"given {len(arguments.names)} names: multierase rename NAME NEW_NAME --library FOLDER"
        )
    before, after = arguments.names
    file = Library(arguments.library).rename(before, after)

    return {"library": arguments.library, "from": before, "concept": after, "file": str(file)}


def print_rename(report: dict) -> None:
    say(f"{report['from']!r} is {report['concept']!r} now, in {report['file']}")


def run_remove(arguments: Namespace) -> dict:
    """Delete concepts' files; all of them are there, or none is deleted."""
    library, concepts = Library(arguments.library), list(dict.fromkeys(arguments.concepts))
    if not concepts:
        raise UsageError("name at least one concept: multierase remove NAME --library FOLDER")
    library.require(concepts)

    files = [str(library.path(concept)) for concept in concepts]
    for concept in concepts:
        library.remove(concept)
    return {"library": arguments.library, "removed": concepts, "files": files}


def print_remove(report: dict) -> None:
    say(f"deleted {', '.join(report['files'])}")


def run_crosstalk(arguments: Namespace) -> dict:
    """Measure how much each increment moves the tokens of every concept."""
    Library(arguments.library)
    from multierase.pictures import (
        matrix_picture,
        require_matplotlib,
        require_picture_name,
        save_picture,
    )

    if arguments.out is not None:
        require_matplotlib()
        require_picture_name(arguments.out)
    workspace = open_workspace(arguments, keep=listed_in(arguments.keep_file))
    from multierase.separation.crosstalk import RELATIVE, relative_to_own

    table = workspace.composer.crosstalk()
    relative, entangled = relative_to_own(table), workspace.entangled()
    warn_of_entangled(entangled)

    if arguments.out is not None:
        save_picture(matrix_picture(relative, RELATIVE), arguments.out)
        say(f"wrote {arguments.out}")
    return {
        "library": arguments.library,
        "crosstalk": table,
        "relative": relative,
        "entangled": [[pair.erased, pair.moved] for pair in entangled],
    }


def print_crosstalk(report: dict) -> None:
    from multierase.separation.crosstalk import RELATIVE

    relative = report["relative"]
    columns = list(next(iter(relative.values()), {}))
    rows = [(name, *(f"{row[other]:.2f}" for other in columns)) for name, row in relative.items()]
    print_table(RELATIVE, ("", *columns), rows)
