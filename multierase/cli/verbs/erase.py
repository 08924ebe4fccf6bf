"""The verb ``erase``: concepts in, one increment file per concept out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from multierase.cli.console import DEGREE, next_step, print_table, say
from multierase.cli.requests import (
    listed_in,
    open_workspace,
    settings_of,
    warn_of_entangled,
    warn_of_old_lists,
)
from multierase.errors import ConceptRefused, UsageError
from multierase.increments.library import Library
from multierase.increments.provenance import in_words
from multierase.methods import Refusal
from multierase.prompts.concepts import Concept, require_distinct
from multierase.training.settings import EraseSettings

if TYPE_CHECKING:
    from multierase.workspace import Trained, Workspace

logger = logging.getLogger(__name__)

COLUMNS = ("concept", "file", "steps", "degree", "stop", "evaluations", "seconds")


def run_erase(arguments: Namespace) -> dict:
    """Train an increment of each concept into the library."""
    settings = settings_of(EraseSettings, arguments)
    concepts = _concepts(arguments)
    keep = listed_in(arguments.keep_file)
    _check_targets(arguments, [concept.name for concept in concepts])

    workspace = open_workspace(arguments, create=True, keep=keep)
    results = workspace.train(
        *concepts,
        settings=settings,
        method=arguments.method,
        simultaneous=arguments.simultaneous,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        progress=True,
    )

    rows = [_row(result) for result in results if not isinstance(result, Refusal)]
    refused = [
        {"concept": result.concept, "reason": result.reason}
        for result in results
        if isinstance(result, Refusal)
    ]
    if not rows:
        raise ConceptRefused(
            f"refused {[row['concept'] for row in refused]}: {refused[0]['reason']}"
        )

    _warn_of_entangled(workspace, [row["concept"] for row in rows])
    if len(concepts) == 1:
        return rows[0]
    return {"increments": rows, **({"refused": refused} if refused else {})}


def print_erase(report: dict) -> None:
    rows = report.get("increments", [report])
    keys = ("steps", "erasure_degree", "stop_reason", "evaluations", "seconds")
    cells = [(row["concept"], Path(row["file"]).name, *(row[key] for key in keys)) for row in rows]
    print_table(f"increments in {Path(rows[0]['file']).parent}", COLUMNS, cells)
    if any(row["erasure_degree"] is not None for row in rows):
        say(f"degree: {DEGREE}")
    for row in rows:
        if row["certificate"]:
            say(f"{row['concept']}: {in_words(row['certificate'])}")
    look_at(rows[0])


def look_at(row: Mapping) -> None:
    """Say how an increment is looked at: beside the base, by the sentence that it does worst."""
    file, name = Path(row["file"]), str(row["concept"])
    prompt = (row["certificate"] or {}).get("worst_sentence") or name
    base = [] if row["base"] == "emoji" else ["--base", row["base"]]
    where = ["--library", str(file.parent), "--erase", name]

    next_step("generate", prompt, *base, *where, "--compare", "--out", f"{file.stem}.png")


def _concepts(arguments: Namespace) -> list[Concept]:
    if not arguments.concepts:
        raise UsageError(
            "name at least one concept, right after the verb: "
            "multierase erase NAME --library FOLDER"
        )
    warn_of_old_lists(arguments, "prompts", "keep")

    listed = [tagged.prompt for tagged in listed_in(arguments.prompts_file)]
    prompts = (*arguments.prompts, *listed)
    if prompts and len(arguments.concepts) > 1:
        raise UsageError(
            f"--prompts are one concept's, {len(arguments.concepts)} concepts given: "
            "erase them one by one"
        )

    require_distinct(arguments.concepts)
    return [
        Concept(name, prompts, anchor=arguments.anchor, erase_from=arguments.erase_from)
        for name in arguments.concepts
    ]


def _check_targets(arguments: Namespace, names: list[str]) -> None:
    """Refuse what could not be saved before anything is loaded."""
    if Path(arguments.library).is_dir():
        Library(arguments.library).check_targets(names, overwrite=arguments.overwrite)


def _row(trained: Trained) -> dict:
    made = trained.increment.provenance
    return {
        "concept": made.concept,
        "file": str(trained.path),
        "base": trained.increment.base.name,
        "stop_reason": made.stop and made.stop.reason,
        "erasure_degree": made.stop and made.stop.degree,
        "steps": made.stop and made.stop.steps,
        "evaluations": made.cost and made.cost.evaluations,
        "seconds": made.cost and made.cost.seconds,
        "certificate": made.certificate and _without_questions(made.certificate),
    }


def _without_questions(certificate: Mapping) -> dict:
    return {key: value for key, value in certificate.items() if key != "questions"}


def _warn_of_entangled(workspace: Workspace, names: list[str]) -> None:
    try:
        warn_of_entangled(workspace.entangled(names))
    except ValueError as error:  # what was asked for is done; a file beside it may be anything
        logger.warning("cross-talk with the rest of the library is not known: %s", error)
