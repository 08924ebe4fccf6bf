"""Many erasures at once: over processes or the nodes of a cluster, each as its own run gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from multierase.executors.executor import Executor, Work
from multierase.files import whole_path
from multierase.increments.library import Library
from multierase.methods import Refusal, method_named
from multierase.models.sources import whole_source
from multierase.prompts.concepts import Concept, require_distinct
from multierase.prompts.lists import TaggedPrompt
from multierase.training.settings import EraseSettings
from multierase.workspace import Workspace


@dataclass(frozen=True)
class Task:
    """A concept to erase, and how."""

    concept: Concept
    settings: EraseSettings


@dataclass(frozen=True)
class Site:
    """Where workers find what they need, as plain values.

    Args:
        library: the folder that increments are saved in.
        base: as ``load_base`` takes it.
        loading: its other arguments, by their names in ``Workspace``.
        keep: prompts that must not change.
        method: how increments are made.
        overwrite: replace increments that are there already.
    """

    library: str
    base: str = "emoji"
    loading: dict[str, Any] = field(default_factory=dict)
    keep: tuple[TaggedPrompt, ...] = ()
    method: str = "esd"
    overwrite: bool = False


Erased = tuple[str, Path | Refusal]
"""A concept's name, and its increment's file or why there is none."""


def erase_many(
    tasks: Sequence[Task], site: Site, executor: Executor, *, resume: bool = False
) -> Iterator[Erased]:
    """Erase concepts apart, each in one thread of a worker, and yield each as it is saved.

    A file depends on its own task and on the names of all tasks and of the library, among which
    siblings are sought; not on the workers, their number, or what was interrupted.

    Args:
        resume: concepts that are in the library already are done; without it they are an error.

    Raises:
        AlreadyThere: for a concept that is in the library, before anything is trained.
        UsageError: for a concept that is given twice, or an unknown method.
        Exception: what a worker raises; what is saved stays, and checkpoints of what is not.
    """
    names = [task.concept.name for task in tasks]
    require_distinct(names)
    method_named(site.method)
    library = Library(site.library, create=True)
    there = sorted(set(library) & set(names)) if resume and not site.overwrite else []
    library.check_targets([name for name in names if name not in there], overwrite=site.overwrite)
    headers = library.headers() if there else {}
    for name in there:
        yield name, headers[name].path

    beside = tuple(sorted({*library, *names}))
    left = [task for task in tasks if task.concept.name not in there]
    if not executor.works_here(len(left)):
        site = _elsewhere(site)
    for task, found in executor.map(partial(_eraser, site, beside, resume), left):
        yield task.concept.name, found


def _eraser(site: Site, beside: Sequence[str], resume: bool) -> Work:
    workspace = Workspace(site.library, site.base, keep=site.keep, **site.loading)

    return partial(_erased, workspace, site, beside, resume)


def _erased(
    workspace: Workspace, site: Site, beside: Sequence[str], resume: bool, task: Task
) -> Path | Refusal:
    (result,) = workspace.train(
        task.concept,
        settings=task.settings,
        method=site.method,
        beside=beside,
        overwrite=site.overwrite,
        resume=resume,
    )

    return result if isinstance(result, Refusal) else result.path


def _elsewhere(site: Site) -> Site:
    """Return the site for workers with another working directory."""
    config = whole_path(site.loading.get("base_config"))

    return replace(
        site,
        library=whole_path(site.library),
        base=whole_source(site.base),
        loading={**site.loading, "base_config": config},
    )
