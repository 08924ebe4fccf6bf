"""The verbs about a folder of increments: list, show, validate, compress, cross-talk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from multierase.cli.console import percent, print_lines, print_table, say, shown
from multierase.cli.requests import (
    listed_in,
    open_workspace,
    relative_to_own,
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
    print_table(f"{report['library']}: {len(rows)} increments", LISTED, cells)
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
        print_table(f"not sound: {len(rows)} files", ("file", "problem"), rows)


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
    settings = [f"{name} {_listed(value)}" for name, value in report["settings"].items()]
    if settings:
        print_lines(["settings it was made with:", "; ".join(settings)])


def _results(report: dict) -> list[tuple[str, object]]:
    """The results of an erasure, each once and in a few words."""
    cost, separation = report["cost"] or {}, report["separation"] or {}
    mean = separation.get("kept_in_mean") or {}
    rows = [
        ("file", report["file"]),
        ("made by", f"{report['method']}, multierase {report['version'] or '?'}"),
        ("base", report["base"]),
        ("scope", report["scope"]),
        ("prompts", _listed(report["prompts"])),
        ("anchor", report["anchor"] or None),
        ("erased from", report["erase_from"]),
        ("steps taken", report["steps"]),
        ("stopped by", report["stop_reason"]),
        ("erasure degree", _curve(report["stop"])),
        ("certificate", report["certificate"] and in_words(report["certificate"])),
        ("evaluations", cost.get("evaluations")),
        ("seconds", cost.get("seconds")),
        ("peak memory, MiB", cost.get("peak_memory_mib")),
        ("kept exactly", _listed([repr(prompt) for prompt in separation.get("kept_exactly", [])])),
        ("kept in the mean", mean and _in_mean(mean)),
        ("directions", _listed(_directions(separation.get("directions", {})))),
        ("norm", report["norm"]),
        ("parameters", len(report["parameters"])),
        ("stored", f"{shown(report['bytes'] / 1e3)} kB, {report['stored_as']}"),
        ("since then", _listed([step_in_words(step) for step in report["history"]])),
        ("seed", None if "seed" in report["settings"] else report["seed"]),
    ]
    return [(name, value) for name, value in rows if value not in (None, "", {}, "-")]


def _in_mean(mean: dict) -> str:
    listed = f"{mean.get('prompts')} prompts"

    return f"{listed}, {mean['dictionary']} of the dictionary" if "dictionary" in mean else listed


def _directions(directions: dict) -> list[str]:
    return [
        f"{stream}: rank {shown(numbers.get('rank'))}, residual {shown(numbers.get('residual'))}"
        for stream, numbers in directions.items()
    ]


def _curve(stop: dict | None) -> str | None:
    """Sum up the curve of erasure degrees."""
    if stop is None:
        return None
    if not stop["degrees"]:
        return shown(stop["degree"])

    degrees = stop["degrees"]
    middle = degrees[len(degrees) // 2]
    return f"{shown(stop['degree'])} (first step {shown(degrees[0])}, half-way {shown(middle)})"


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
    print_table(f"{report['library']}: {len(rows)} files", ("file", ""), rows)


def run_compress(arguments: Namespace) -> dict:
    """Write compressed copies into another library."""
    library, smaller = Library(arguments.library), Library(arguments.out, create=True)
    concepts = arguments.concepts or list(library.headers())
    library.require(concepts)
    smaller.check_targets(concepts, overwrite=arguments.overwrite)

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
    table = workspace.composer.crosstalk()
    relative, entangled = relative_to_own(table), workspace.entangled()
    warn_of_entangled(entangled)

    if arguments.out is not None:
        save_picture(matrix_picture(relative, TITLE), arguments.out)
        say(f"wrote {arguments.out}")
    return {
        "library": arguments.library,
        "crosstalk": table,
        "relative": relative,
        "entangled": [[pair.erased, pair.moved] for pair in entangled],
    }


TITLE = "how much a row's increment moves a column's tokens, relative to its own"


def print_crosstalk(report: dict) -> None:
    relative = report["relative"]
    columns = list(next(iter(relative.values()), {}))
    rows = [(name, *(f"{row[other]:.2f}" for other in columns)) for name, row in relative.items()]
    print_table(TITLE, ("", *columns), rows)
