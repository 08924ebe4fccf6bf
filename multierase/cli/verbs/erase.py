"""The verb ``erase``: concepts in, one increment file per concept out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from tqdm import tqdm

from multierase.cli.console import DEGREE, next_step, percent, print_table, say, shown
from multierase.cli.requests import (
    announce,
    listed_in,
    loading_of,
    open_workspace,
    settings_of,
    warn_of_entangled,
    warn_of_old_lists,
)
from multierase.errors import ConceptRefused, UsageError
from multierase.files import plain
from multierase.increments.header import Header, read_header
from multierase.increments.library import Library
from multierase.increments.provenance import in_words
from multierase.methods import Refusal
from multierase.prompts.concept_lists import ListedConcept, read_concepts
from multierase.prompts.concepts import Concept, require_distinct
from multierase.training.settings import EraseSettings

if TYPE_CHECKING:
    from multierase.workspace import Workspace

logger = logging.getLogger(__name__)

COLUMNS = ("concept", "file", "steps", "degree", "stop", "evaluations", "seconds")
SPREAD = ("concepts_file", "executor", "workers", "address")  # flags of runs in workers
LINE, WIDEST = "{:<40} {:>8} {:>12} {:>9}", 40  # of the table that grows as concepts are erased


def run_erase(arguments: Namespace) -> dict:
    """Train an increment of each concept into the library."""
    settings = settings_of(EraseSettings, arguments)
    listed = [ListedConcept(name) for name in arguments.concepts]
    if arguments.concepts_file is not None:
        listed += read_concepts(arguments.concepts_file)
    if any(arguments[flag] is not None for flag in SPREAD):
        return _many(arguments, settings, listed)
    concepts = _concepts(arguments, listed)
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

    rows = [_row(read_header(one.path)) for one in results if not isinstance(one, Refusal)]
    report = _report(rows, [one for one in results if isinstance(one, Refusal)])

    _warn_of_entangled(workspace, [row["concept"] for row in rows])
    return rows[0] if len(concepts) == 1 else report


def _report(rows: Sequence[dict], refusals: Sequence[Refusal]) -> dict:
    """Return what was made and what was refused.

    Raises:
        ConceptRefused: if nothing was made.
    """
    refused = [{"concept": one.concept, "reason": one.reason} for one in refusals]
    if not rows:
        raise ConceptRefused(
            f"refused {[row['concept'] for row in refused]}: {refused[0]['reason']}"
        )

    return {"increments": list(rows), **({"refused": refused} if refused else {})}


def _many(arguments: Namespace, settings: EraseSettings, listed: Sequence[ListedConcept]) -> dict:
    """Erase concepts apart, in several workers."""
    if arguments.simultaneous:
        raise UsageError(
            "--simultaneous is one run of all concepts: leave --concepts-file and what says where "
            "workers are out"
        )
    named = _concepts(arguments, listed)
    keep = tuple(listed_in(arguments.keep_file))

    announce(f"erasing {len(named)} concepts of {arguments.base}")
    from multierase.executors.choice import executor_of
    from multierase.many import Site, Task, erase_many

    tasks = []
    for one, concept in zip(listed, named, strict=True):
        own = {"kind": one.kind, "siblings": one.siblings}
        given = {name: value for name, value in own.items() if value is not None}
        tasks.append(Task(concept, replace(settings, **given)))
    site = Site(
        arguments.library,
        arguments.base,
        loading_of(arguments),
        keep,
        arguments.method,
        arguments.overwrite,
    )
    executor = executor_of(
        arguments.executor or "processes",
        arguments.workers,
        arguments.address,
        arguments.gpus_per_worker,
    )

    found = erase_many(tasks, site, executor, resume=arguments.resume)
    done = dict(_told(found, len(tasks)))
    in_order = [done[task.concept.name] for task in tasks]
    return _report(
        [_row(one) for one in in_order if isinstance(one, Header)],
        [one for one in in_order if isinstance(one, Refusal)],
    )


def _told(
    found: Iterator[tuple[str, Path | Refusal]], count: int
) -> Iterator[tuple[str, Header | Refusal]]:
    """Pass on what was erased, and say each on a line of a table as it is there."""
    with tqdm(total=count, desc="concepts") as bar:
        bar.write(LINE.format("concept", "gone", "evaluations", "seconds"), sys.stderr)
        for name, made in found:
            one = made if isinstance(made, Refusal) else read_header(made)
            cells = ["refused", "", ""]
            if isinstance(one, Header):
                row = _row(one)
                gone = (row["certificate"] or {}).get("gone")
                cells = [percent(gone), shown(row["evaluations"]), shown(row["seconds"])]
            bar.write(LINE.format(plain(name)[:WIDEST], *cells), sys.stderr)
            bar.update()
            yield name, one


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


def _concepts(arguments: Namespace, listed: Sequence[ListedConcept]) -> list[Concept]:
    if not listed:
        raise UsageError(
            "name at least one concept, right after the verb: "
            "multierase erase NAME --library FOLDER"
        )
    warn_of_old_lists(arguments, "prompts", "keep")

    in_file = [tagged.prompt for tagged in listed_in(arguments.prompts_file)]
    prompts = (*arguments.prompts, *in_file)
    if prompts and len(listed) > 1:
        raise UsageError(
            f"--prompts are one concept's, {len(listed)} concepts given: erase them one by one"
        )

    require_distinct([one.name for one in listed])
    concepts = []
    for one in listed:
        anchor = arguments.anchor if one.anchor is None else one.anchor
        concepts.append(Concept(one.name, prompts, anchor=anchor, erase_from=arguments.erase_from))
    return concepts


def _check_targets(arguments: Namespace, names: list[str]) -> None:
    """Refuse what could not be saved before anything is loaded."""
    if Path(arguments.library).is_dir():
        Library(arguments.library).check_targets(names, overwrite=arguments.overwrite)


def _row(increment: Header) -> dict:
    made = increment.provenance
    return {
        "concept": made.concept,
        "file": str(increment.path),
        "base": increment.base.name,
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
