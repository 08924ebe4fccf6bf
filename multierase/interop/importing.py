"""A file of another tool's becomes an increment, with an honest history."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import multierase
from multierase.errors import ConceptRefused, UsageError, WeightsFileError
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.header import METADATA_KEY
from multierase.increments.provenance import Cost, Provenance, Separation
from multierase.increments.value import Delta, Increment, changed, gram_factor
from multierase.interop.differences import Differences, differences
from multierase.interop.naming import Names
from multierase.interop.parts import left_out
from multierase.interop.projecting import projected
from multierase.interop.reading import Found, read
from multierase.interop.sources import ImportSettings
from multierase.interop.sources.choice import recognise
from multierase.interop.sources.peer import Peer
from multierase.models.model import Model
from multierase.models.weights import require_free
from multierase.prompts.concepts import Concept, require_distinct
from multierase.separation.directions import compact, concept_tokens
from multierase.training.certificate import Exam, Question, as_json, certificate
from multierase.training.plan import Plan, Planner
from multierase.training.settings import EraseSettings
from multierase.training.trajectories import EvaluationCounter

LARGE = 1.0  # times the weights' own norm: hardly an erasure of this base

logger = logging.getLogger(__name__)


def import_file(
    model: Model,
    source: str | Path | Found,
    concept: Concept | str,
    settings: ImportSettings | None = None,
    *,
    keep: Sequence[str] = (),
    library: Iterable[str] = (),
    folder: str | Path | None = None,
    progress: bool = False,
) -> Increment:
    """Return what a file of another tool's does to this base, as an increment.

    It has the Gram matrix of its concepts' tokens, so that it takes part in the joint solve, and a
    certificate of the same sentences as a training's. What the file does not say stays unknown.

    Args:
        model: the base that the file was made for, free of increments.
        source: a file or a folder, or one that has been read;
            ``multierase.interop.sources.SOURCES`` lists the formats.
        concept: what it erases.
        settings: see ``ImportSettings``.
        keep: prompts that a projected increment must not change at all.
        library: names of concepts that are erased besides: siblings are among them.
        folder: where the dictionary's forms are kept.
        progress: show progress bars on stderr.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsFileError: for a file of no known format, of another architecture, with more than a
            denoiser's weights, or that would run code.
        ConceptRefused: if the base does not draw a concept.
        ModelHeld: if concepts are erased on the model now.
    """
    require_free(model)
    settings, began = settings or ImportSettings(), time.perf_counter()
    concept = Concept(concept) if isinstance(concept, str) else concept
    require_distinct([concept.name, *settings.also])
    file = _opened(model, source, settings)
    _warn(model, file, [concept.name, *settings.also])
    if not settings.project:
        _warn_of_summed(model, file.changes)

    own = EraseSettings(kind=settings.kind, scope=model.exact_scope, seed=settings.seed)
    planner = Planner(model, own, library=library, folder=folder, progress=progress)
    erased = [concept] if settings.project else [concept, *map(Concept, settings.also)]
    model.reset_peak_memory()
    plans = [_planned(planner, one, keep if settings.project else ()) for one in erased]

    grams = _grams(model, plans)
    step = _step(file, concept.name, settings)
    deltas, separation = file.changes.deltas, Separation()
    if settings.project:
        deltas, more = _own_part(model, file, plans[0], grams)
        step, separation = {**step, **more}, plans[0].separation

    evaluations = EvaluationCounter()
    evaluations.forward = sum(plan.spent for plan in plans)
    certified = _certificate(model, planner, plans, deltas, evaluations)
    here, seconds = model.parameters(), round(time.perf_counter() - began, 2)
    return Increment(
        deltas=deltas,
        base=Fingerprint.of(model.name, model.family, {name: here[name] for name in deltas}),
        provenance=Provenance(
            concept=concept.name,
            prompts=tuple(prompt for plan in plans for prompt in plan.concept.prompts),
            contexts=tuple(context for plan in plans for context in plan.concept.contexts),
            method=file.peer.method,
            scope=_scope(model, deltas, file.changes),
            settings=_settings(file.peer, planner, plans, settings),
            seed=settings.seed,
            version=multierase.__version__,
            cost=Cost(round(evaluations.total), seconds, model.peak_memory()),
            separation=separation,
            certificate=certified,
        ),
        grams=grams,
        readers={name: stream for name, stream in model.readers.items() if name in deltas},
        history=(step,),
    )


@dataclass(frozen=True)
class _File:
    """A file that was read, compared with a base.

    Args:
        beside: what other parts of a pipeline it holds.
    """

    found: Found
    peer: Peer
    changes: Differences
    beside: Mapping[str, Mapping[str, int]]


def _opened(model: Model, source: str | Path | Found, settings: ImportSettings) -> _File:
    found = source if isinstance(source, Found) else read(source)
    with _named(found.path):
        names = Names(model)
        peer = recognise(found).read(found, names)
        refined = _refined(peer, names, settings.refined)

        return _File(
            found, peer, differences(model, names, peer, refined), left_out(model, peer.beside)
        )


def _refined(peer: Peer, names: Names, path: str | None) -> Peer | None:
    """Return the model that a relative file belongs to."""
    if path is None:
        if peer.relative:
            raise WeightsFileError(
                f"it is {peer.about}, and not relative to the base: give the folder of that model "
                "as well (--refined FOLDER; the base's own, if it was trained on the base itself)"
            )
        return None

    if not peer.deltas:
        raise UsageError("--refined is for low-rank files alone, and this holds whole weights")
    found = read(path)
    refined = recognise(found).read(found, names)
    if refined.weights is None:
        raise WeightsFileError(f"--refined {path} holds no whole weights")
    return refined


def _planned(planner: Planner, concept: Concept, keep: Sequence[str]) -> Plan:
    try:
        return planner.plan(concept, keep)
    except ConceptRefused as error:
        raise ConceptRefused(
            f"{error}; --kind none imports it without asking the base anything", concept.name
        ) from error


def _grams(model: Model, plans: Sequence[Plan]) -> dict[str, torch.Tensor]:
    """Return by stream the Gram factor of all concepts' tokens."""
    grams = {}
    for stream in model.streams:
        tokens = [concept_tokens(model, plan.concept, stream) for plan in plans]
        grams[stream] = gram_factor(compact(torch.cat(tokens).to(model.device)))

    return grams


def _own_part(
    model: Model, file: _File, plan: Plan, grams: Mapping[str, torch.Tensor]
) -> tuple[Mapping[str, Delta], dict[str, Any]]:
    """Return what lies in the concept's own directions, and what the history says of that."""
    before = file.changes.deltas
    with _named(file.found.path):
        deltas, share = projected(before, model.readers, grams, plan.directions)
    dropped = len(before) - len(deltas)

    return deltas, {"projected": True, "effect_kept": round(share, 4), "dropped": dropped}


def _certificate(
    model: Model,
    planner: Planner,
    plans: Sequence[Plan],
    deltas: Mapping[str, Delta],
    evaluations: EvaluationCounter,
) -> dict[str, Any] | None:
    """Ask the unseen sentences; ``None`` if there are none, as without a kind."""
    asked, points = _questions(planner, plans), plans[0].points
    if not asked or points is None:
        return None

    exam = Exam(model, points, asked, evaluations)
    exam.base()
    with model.holding(changed(model.parameters(), deltas)):
        answers = exam.answers(model.predict)

    return {**certificate(answers), "questions": as_json(asked)}


def _questions(planner: Planner, plans: Sequence[Plan]) -> list[Question]:
    """Return the plans' questions; of what is to stay, nothing that the file erases."""
    asked: dict[tuple[str, str], Question] = {}
    for plan in plans:
        for question in plan.asked:
            erased = any(
                planner.kind.mentions(other.concept.name, question.prompt) for other in plans
            )
            if question.about == "own" or not erased:
                asked[question.about, question.prompt] = question

    return list(asked.values())


def _scope(model: Model, deltas: Mapping[str, Delta], changes: Differences) -> str:
    """Return the scope whose parameters are these, or those that the file holds."""
    for chosen in (set(deltas), set(changes.named)):
        for name in sorted(model.scopes):
            with contextlib.suppress(ValueError):  # a scope that selects nothing here
                if set(model.scope_parameters(name)) == chosen:
                    return name

    return ""


def _settings(
    peer: Peer, planner: Planner, plans: Sequence[Plan], settings: ImportSettings
) -> dict[str, Any]:
    """Return what the file says of its making, and what was asked here."""
    forms: list[str] = []
    for plan in plans:
        forms += plan.tried.forms if plan.tried else ()
    ours = {
        "kind": planner.settings.kind,
        "forms": list(dict.fromkeys(forms)),
        "project": settings.project,
    }

    # Through JSON, so that the value equals what a file gives back.
    return json.loads(json.dumps({**peer.said, **ours}))


def _step(file: _File, concept: str, settings: ImportSettings) -> dict[str, Any]:
    """Return the entry of the history."""
    found, peer, changes = file.found, file.peer, file.changes
    exported = ", exported by multierase" if METADATA_KEY in found.metadata else ""
    step: dict[str, Any] = {
        "step": "imported",
        "from": peer.about + exported,
        "file": found.path.name,
        "sha256": found.sha256,
        "dtype": changes.dtype,
        "size": round(changes.size, 4),
        "concepts": [concept, *settings.also],
        # A relative file's share of the set's own refinement is in each of its increments.
        "separable": not settings.also and settings.refined is None,
    }
    unchanged = len(changes.named - changes.deltas.keys())
    if unchanged:
        step["unchanged"] = unchanged
    if file.beside:
        step["left_out"] = {part: dict(counts) for part, counts in file.beside.items()}
    if settings.refined is not None:
        step["refined"] = Path(settings.refined).name

    return step


def _warn(model: Model, file: _File, concepts: Sequence[str]) -> None:
    said, changes = {name.lower() for name in _concepts_said(file)}, file.changes
    missing = sorted(said - {name.lower() for name in concepts})
    if missing:
        logger.warning("the file says that it erases %s: name more concepts with --also", missing)
    if changes.size > LARGE:
        logger.warning(
            "it changes the weights by %.1f times their own size: was it made for %r?",
            changes.size,
            model.name,
        )


def _warn_of_summed(model: Model, changes: Differences) -> None:
    summed = sum(name not in model.readers for name in changes.deltas)
    if summed:
        logger.warning(
            "%d of %d changed parameters do not read the text alone: when composed they are "
            "summed, whatever the solve",
            summed,
            len(changes.deltas),
        )


def _concepts_said(file: _File) -> list[str]:
    """Return the concepts that a file says it erases; one that was exported here says it too."""
    try:
        exported = json.loads(file.found.metadata.get(METADATA_KEY, "{}"))["erased"]
    except (ValueError, TypeError, KeyError, RecursionError):
        exported = {}

    return [*file.peer.concepts, *(exported if isinstance(exported, dict) else ())]


@contextlib.contextmanager
def _named(path: object) -> Iterator[None]:
    """Put the file's name into an error about it."""
    try:
        yield
    except WeightsFileError as error:
        if str(path) in str(error):
            raise
        raise WeightsFileError(f"{path}: {error}") from error
