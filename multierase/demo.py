"""The demonstration: two studios erased, the first restored bit for bit, seen and measured."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

import multierase
from multierase import emoji
from multierase.errors import AlreadyThere
from multierase.evaluation.cases import Case
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import load_instruments
from multierase.evaluation.report.rows import by_concept
from multierase.evaluation.suites import Suite
from multierase.files import digest_tensors, write_json
from multierase.generate import generate
from multierase.increments.header import Header
from multierase.models.loading import load_base
from multierase.models.model import Model
from multierase.pictures import contact_sheet, save_picture
from multierase.sampling import SamplingSettings
from multierase.training.defaults import kind_of, with_defaults
from multierase.training.settings import EraseSettings
from multierase.workspace import Trained, Workspace

METHOD = "esd"
FIRST, SECOND = "Twemoji", "Firefox"
UNTOUCHED = ("EmojiOne", "Fluent High Contrast")
STUDIOS = (FIRST, SECOND, *UNTOUCHED)
TEMPLATE = ("{a_subject} by {studio}",)
JUDGED_STEPS = 10  # as the shipped suites: enough for the judge, and quick
SHOWN = ("church", "sunflower")
SHOWN_SEED, SHOWN_SAMPLING = 7, SamplingSettings()
JUDGED = emoji.SUBJECTS[::6]
STATES = {
    "base": (),
    f"{FIRST} erased": (FIRST,),
    "both erased": (FIRST, SECOND),
    f"{FIRST} restored": (SECOND,),
    "all restored": (),
}
"""The rows of the sheet: which studios are erased in each."""


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
        model: the embedded base or another that draws its studios: loaded, or its source.
        folder: where everything goes.
        settings: of both erasures.
        overwrite: replace increments of an earlier demonstration.
        progress: show progress bars on stderr.

    Returns:
        The report.

    Raises:
        AlreadyThere: if ``lib/`` holds one of the studios, made in another way, unless
            ``overwrite``.
    """
    began = time.perf_counter()
    model = load_base(model) if isinstance(model, str) else model
    folder = Path(folder)
    workspace = Workspace(folder / "lib", model, create=True)
    used_again = [] if overwrite else _used_again(workspace, settings)
    _train(workspace, settings, used_again, overwrite, progress)

    found = _observed(workspace, progress)
    workspace.composer.close()
    # A second composer, which has never heard of the first studio's erasure.
    with Workspace(workspace.library, model).erasing(SECOND):
        never_erased = digest_tensors(model.parameters())

    headers = workspace.library.headers()
    report = {
        "accuracy": {state: each.accuracy for state, each in found.items()},
        "bit_exact": {
            "restored_equals_never_erased": found[f"{FIRST} restored"].weights == never_erased,
            "all_restored_equals_base": found["all restored"].weights == found["base"].weights,
        },
        "evaluations": {name: _evaluations(headers[name]) for name in (FIRST, SECOND)},
        "used_again": used_again,
        "seconds": round(time.perf_counter() - began, 1),
        "judged_pictures": len(JUDGED),
        "settings": _as_json(settings),
    }
    save_picture(_sheet(found), folder / "sheet.png")
    write_json(folder / "report.json", report)
    return report


def _used_again(workspace: Workspace, settings: EraseSettings) -> list[str]:
    """Return the studios whose increments are there, made as they would be made now."""
    headers = workspace.library.headers()
    there = [name for name in (FIRST, SECOND) if name in headers]
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
    settings: EraseSettings,
    used_again: Iterable[str],
    overwrite: bool,
    progress: bool,
) -> None:
    missing = [name for name in (FIRST, SECOND) if name not in used_again]
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


def _observed(workspace: Workspace, progress: bool) -> dict[str, Found]:
    """Bring the model into each state, and look at it: always the same prompts and seeds."""
    suite = _suite()
    experiment = Experiment(suite=suite.name)
    evaluator = Evaluator(
        experiment,
        model=workspace.model,
        eraser=workspace,
        instruments=load_instruments(experiment, suite, workspace.model.device),
    )
    prompts = _shown_prompts()
    seeds = [SHOWN_SEED] * len(prompts)

    found = {}
    for state, erased in tqdm(STATES.items(), desc="states", disable=not progress):
        workspace.set(dict.fromkeys(erased, 1.0))
        shares = by_concept(suite, evaluator.observe_now())
        found[state] = Found(
            pictures=generate(workspace.model, prompts, seeds, SHOWN_SAMPLING),
            weights=digest_tensors(workspace.model.parameters()),
            accuracy={studio: shares[studio]["value"] for studio in STUDIOS},
        )

    return found


def _suite() -> Suite:
    """Return a case for each studio and subject; a subject has the same noise whoever draws it."""
    cases: list[Case] = []
    for studio in STUDIOS:
        for seed, subject in enumerate(JUDGED):
            (prompt,) = emoji.fill(TEMPLATE, studio, subject)
            labels = {"studio": studio, "subject": subject}
            cases.append(Case(len(cases), prompt, seed, labels))

    sampling = SamplingSettings(inference_steps=JUDGED_STEPS)
    return Suite("demo", tuple(cases), {"name": "emoji"}, sampling, thumbnails=0)


def _shown_prompts() -> list[str]:
    prompts = []
    for studio in STUDIOS:
        for subject in SHOWN:
            prompts += emoji.fill(TEMPLATE, studio, subject)

    return prompts


def _sheet(found: Mapping[str, Found]) -> Image.Image:
    """Draw a row for each state, a column for each prompt."""
    prompts = _shown_prompts()
    pictures = torch.cat([each.pictures for each in found.values()])

    return contact_sheet(pictures, len(prompts), row_labels=list(found), column_labels=prompts)
