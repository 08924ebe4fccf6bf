"""The demonstration: concepts erased, some restored bit for bit, seen and measured."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import multierase
from multierase.errors import AlreadyThere
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import load_instruments
from multierase.evaluation.report.rows import by_concept
from multierase.files import digest_tensors, write_json
from multierase.generate import generate
from multierase.increments.header import Header
from multierase.models.loading import load_base
from multierase.models.model import Model
from multierase.pictures import save_picture
from multierase.shows import OF_EMOJI, SHOWS, Show
from multierase.training.defaults import kind_of, with_defaults
from multierase.training.settings import EraseSettings
from multierase.workspace import Trained, Workspace

METHOD = "esd"


@dataclass(frozen=True)
class Found:
    """What one state of the model shows: its pictures, its weights' digest, the judge's shares."""

    pictures: torch.Tensor
    weights: str
    accuracy: dict[str, float]


def run_demo(
    model: Model | str,
    folder: str | Path,
    settings: EraseSettings,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> dict:
    """Run the demonstration, and write ``sheet.png``, ``report.json`` and ``lib/``.

    Increments that an earlier demonstration has left in ``lib/`` are used again if they were made
    in the same way.

    Args:
        model: an embedded base, or another that draws the studios of `emoji`: loaded, or its
            source.
        folder: where everything goes.
        settings: of both erasures.
        overwrite: replace increments of an earlier demonstration.
        progress: show progress bars on stderr.

    Returns:
        The report.

    Raises:
        AlreadyThere: if ``lib/`` holds one of the concepts, made in another way, unless
            ``overwrite``.
    """
    began = time.perf_counter()
    model = load_base(model) if isinstance(model, str) else model
    show = SHOWS.get(model.name, OF_EMOJI)
    folder = Path(folder)
    workspace = Workspace(folder / "lib", model, create=True)
    used_again = [] if overwrite else _used_again(workspace, show, settings)
    missing = [name for name in show.erased if name not in used_again]
    _train(workspace, missing, settings, overwrite, progress)

    found = _observed(workspace, show, progress)
    workspace.composer.close()
    # A second composer, which has never heard of what was given back.
    with Workspace(workspace.library, model).erasing(*show.states[show.restored]):
        never_erased = digest_tensors(model.parameters())

    headers = workspace.library.headers()
    base, *_, last = found.values()
    report = {
        "erased": {state: list(names) for state, names in show.states.items()},
        "accuracy": {state: each.accuracy for state, each in found.items()},
        "bit_exact": {
            "restored_equals_never_erased": found[show.restored].weights == never_erased,
            "all_restored_equals_base": last.weights == base.weights,
        },
        "evaluations": {name: _evaluations(headers[name]) for name in show.erased},
        "used_again": used_again,
        "seconds": round(time.perf_counter() - began, 1),
        "judged_pictures": len(show.judged(show.concepts[0])),
        "settings": _as_json(settings),
    }
    pictures = {state: each.pictures for state, each in found.items()}
    save_picture(show.sheet(show, pictures), folder / "sheet.png")
    write_json(folder / "report.json", report)
    return report


def _used_again(workspace: Workspace, show: Show, settings: EraseSettings) -> list[str]:
    """Return the concepts whose increments are there, made as they would be made now."""
    headers = workspace.library.headers()
    there = [name for name in show.erased if name in headers]
    for name in there:
        difference = _difference(headers[name], workspace.model, settings)
        if difference is not None:
            raise AlreadyThere(
                f"{workspace.library.path(name)} is of an earlier demonstration, and was made "
                f"otherwise ({difference}): give another folder (--out), or replace it with "
                "--overwrite (overwrite=True)"
            )

    return there


def _difference(header: Header, model: Model, settings: EraseSettings) -> str | None:
    """Return the first thing in which an increment was made otherwise than it would be now."""
    made = header.provenance
    here = {
        "base": model.name,
        "version": multierase.__version__,
        "method": METHOD,
        **_as_json(with_defaults(settings, kind_of(model, settings.kind), model)),
    }
    if not settings.siblings:
        del here["siblings"]  # they depend on what was there before
    there = {
        "base": header.base.name,
        "version": made.version,
        "method": made.method,
        **made.settings,
    }
    if header.history:
        return "it was changed since it was made"

    for key, value in here.items():
        if there.get(key) != value:
            return f"{key} is {there.get(key)!r} there and {value!r} now"

    return None


def _as_json(settings: EraseSettings) -> dict:
    """Return the settings as a file gives them back."""
    return json.loads(json.dumps(asdict(settings)))


def _train(
    workspace: Workspace,
    missing: Sequence[str],
    settings: EraseSettings,
    overwrite: bool,
    progress: bool,
) -> None:
    if not missing:
        return

    results = workspace.train(
        *missing, settings=settings, method=METHOD, overwrite=overwrite, progress=progress
    )
    for result in results:
        if not isinstance(result, Trained):
            raise ValueError(f"{result.concept!r} cannot be erased: {result.reason}")


def _evaluations(header: Header) -> int | None:
    cost = header.provenance.cost

    return None if cost is None else cost.evaluations


def _observed(workspace: Workspace, show: Show, progress: bool) -> dict[str, Found]:
    """Bring the model into each state, and look at it: always the same prompts and seeds."""
    suite = show.suite()
    experiment = Experiment(suite=suite.name)
    evaluator = Evaluator(
        experiment,
        model=workspace.model,
        eraser=workspace,
        instruments=load_instruments(experiment, suite, workspace.model.device),
    )
    asked = show.shown or suite.cases
    prompts, seeds = [each.prompt for each in asked], [each.seed for each in asked]
    sampling = show.shown_sampling if show.shown else show.judged_sampling

    found = {}
    for state, erased in tqdm(show.states.items(), desc="states", disable=not progress):
        workspace.set(dict.fromkeys(erased, 1.0))
        pictures = generate(workspace.model, prompts, seeds, sampling)
        if show.shown:
            observed = evaluator.observe_now()
        else:
            observed = evaluator.instruments.observe(pictures, suite.cases)
        shares = by_concept(suite, observed)
        found[state] = Found(
            pictures=pictures,
            weights=digest_tensors(workspace.model.parameters()),
            accuracy={concept: shares[concept]["value"] for concept in show.concepts},
        )

    return found
