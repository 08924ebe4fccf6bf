"""Sweeps: many sets of erased concepts, each judged on a suite, into one store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

import multierase
from multierase.errors import UsageError
from multierase.evaluation.concept_sets import Erased, Stage
from multierase.evaluation.database import locked
from multierase.evaluation.erasers import peer_digest
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments, load_instruments
from multierase.evaluation.observations import Observations
from multierase.evaluation.reference import load_reference, reference_digest
from multierase.evaluation.store import Store
from multierase.evaluation.suites import Suite, shipped_suites, suite_of
from multierase.executors.executor import Done, Executor, Make, Work, one_thread
from multierase.executors.processes import Processes
from multierase.files import whole_path
from multierase.increments.library import Library
from multierase.models.sources import whole_source

PATHS = ("library", "base_config", "peer", "prompts", "fid", "reference")


def sweep(
    experiment: Experiment,
    stages: Sequence[Stage],
    path: str | Path,
    *,
    executor: Executor | None = None,
    instruments: Instruments | None = None,
    progress: bool = False,
) -> Store:
    """Judge the base and every set of ``stages`` on the suite, into the database at ``path``.

    Finished sets are not judged again, so the same call goes on after a kill. The rows are the same
    whatever was interrupted, and whatever the executor.

    Args:
        executor: ``Processes()`` by default, one worker per core.
        instruments: the experiment's, if they are loaded already.

    Raises:
        DatabaseError, SuiteError, UsageError, UnknownConcept, FileNotFoundError: for anything that
            is wrong with database, suite, library or settings, before any picture.
    """
    executor = executor or Processes()
    wanted = list(dict.fromkeys([(), *(erased for _, erased in stages)]))
    suite = suite_of(experiment) if instruments is None else instruments.suite
    made_from = ingredients(experiment, suite, wanted)
    if instruments is None:
        instruments = _instruments(experiment, suite, executor.works_here(len(wanted)))
    reference = load_reference(experiment.reference, instruments) if experiment.reference else None
    settings = {**settings_of(experiment, instruments), **made_from}

    def make(here: bool) -> Make:
        if here:
            return partial(_observer, experiment, instruments)
        return partial(_observer, with_whole_paths(experiment, suite))

    with opened(path, settings, suite, stages) as store:
        for erased, observations in observed(store, wanted, executor, make, progress):
            store.add(suite, erased, observations, reference)

    return store


@contextlib.contextmanager
def opened(
    path: str | Path, settings: Mapping[str, object], suite: Suite, stages: Sequence[Stage]
) -> Iterator[Store]:
    """Open a sweep's database to write it; after the block it can be read, and is to be closed.

    Raises:
        DatabaseError: for a file that is none, or of another sweep.
    """
    with contextlib.ExitStack() as stack:
        # The lock is for the writing only; the store is handed on open.
        stack.enter_context(locked(Path(path)))
        store = Store(path)
        stack.push(lambda *raised: store.close() if raised[0] else None)
        store.begin(settings, suite, stages)
        yield store


def observed(
    store: Store,
    wanted: Sequence[Erased],
    executor: Executor,
    make: Callable[[bool], Make],
    progress: bool,
) -> Iterator[tuple[Erased, Observations]]:
    """Yield what is observed of the sets that are not in the store yet, the base first.

    Args:
        make: of whether this process itself is the worker.
    """
    done = store.done()
    left = [erased for erased in wanted if erased not in done]
    found = base_first(executor.map(make(executor.works_here(len(left))), left), left)
    with tqdm(
        total=len(wanted), initial=len(done & set(wanted)), desc="sets", disable=not progress
    ) as bar:
        for erased, observations in found:
            yield erased, observations
            bar.update()


def _observer(experiment: Experiment, instruments: Instruments | None = None) -> Work:
    """Return what observes a set, in a worker that loads its own instruments or has them."""
    return Evaluator(experiment, instruments=instruments).observe


def base_first(observed: Done, sets: Sequence[Erased]) -> Done:
    """Yield the base first if it is one of the sets: the others are compared with it."""
    early, waiting = [], () in sets
    for erased, observations in observed:
        if erased and waiting:
            early.append((erased, observations))
            continue

        yield erased, observations
        if waiting:
            waiting = False
            yield from early


def with_whole_paths(experiment: Experiment, suite: Suite) -> Experiment:
    """Return the experiment for a worker with another working directory: with whole paths.

    Names of what is shipped, and hub ids, stay. What the suite names beside its YAML is in it too.
    """
    names = {name: whole_path(getattr(experiment, name)) for name in PATHS}
    names["clip"] = whole_path(suite.clip)
    names["base"] = whole_source(experiment.base)
    if experiment.suite not in shipped_suites():
        names["suite"] = whole_path(experiment.suite)

    judge = {}
    for option, value in suite.judge.items():
        judge[option] = value if option == "name" else whole_path(value)

    return replace(experiment, judge=judge, **names)


def settings_of(experiment: Experiment, instruments: Instruments) -> dict:
    """Return all that an experiment's rows depend on, but the files of increments or peers."""
    suite = instruments.suite
    sampling = asdict(suite.sampling)
    del sampling["batch_size"]  # a picture does not depend on those made beside it
    reference = experiment.reference

    return {
        **composition_of(experiment),
        "suite": suite.name,
        "sampling": sampling,
        **instruments.settings(),
        "reference": None if reference is None else reference_digest(reference),
        "version": multierase.__version__,
        "method": method_name(experiment),
        **_attacks_of(experiment),
    }


def composition_of(experiment: Experiment) -> dict:
    """Return what a composed model depends on, but the files of increments."""
    return {
        "base": experiment.base,
        "dtype": experiment.dtype,
        "t5_length": experiment.t5_length,
        "resolution": experiment.resolution,
        "solve": experiment.solve,
        "keep_weight": experiment.keep_weight,
        "keep": [[prompt.prompt, sorted(prompt.concepts)] for prompt in experiment.keep],
    }


def _attacks_of(experiment: Experiment) -> dict:
    if not experiment.attack:
        return {}

    return {
        "attack": list(experiment.attack),
        "budget": experiment.budget,
        "attack_cases": experiment.attack_cases,
        "attack_seed": experiment.attack_seed,
    }


def method_name(experiment: Experiment) -> str:
    """Return what results call the experiment's method."""
    peer = experiment.peer

    return experiment.method if peer is None else f"peer {Path(peer).name}"


def _instruments(experiment: Experiment, suite: Suite, here: bool) -> Instruments:
    # Workers of other processes load their own: here they are only asked for their names.
    with one_thread() if here else contextlib.nullcontext():
        return load_instruments(experiment, suite, None if here else "cpu")


def ingredients(
    experiment: Experiment, suite: Suite, sets: Collection[Erased]
) -> dict[str, object]:
    """Return, with digests, the files that the erasures of these sets are made from.

    Raises:
        UsageError, UnknownConcept, FileNotFoundError: if they cannot be made.
    """
    erased = {concepts for concepts in sets if concepts}
    names = sorted({name for concepts in erased for name in concepts})

    if experiment.method == "increments":
        return _increments(experiment, suite, names)
    # No library knows their names, so a misspelt one would erase something else in silence.
    suite.require_asked(names, every=True)
    if experiment.peer is None:
        return {}
    if len(erased) > 1:
        raise UsageError(
            f"a peer's model has one set of concepts erased, given {len(erased)} sets: give that "
            "one, with --sets list"
        )

    return {"peer": peer_digest(experiment.peer)}


def _increments(experiment: Experiment, suite: Suite, names: Sequence[str]) -> dict[str, object]:
    if experiment.library is None:
        raise UsageError("increments are in a library: give its folder, or another method")
    library = Library(experiment.library)
    library.require(names)
    suite.require_asked(names)

    # The library's other increments count too: a joint solve keeps what they are about.
    digests = {name: header.sha256 for name, header in library.headers().items()}
    return {"increments": digests}


def all_concepts(experiment: Experiment, sets: str) -> list[str]:
    """Return the concepts of a sweep for which none are given.

    Raises:
        UsageError: for a method without a library, unless the sets themselves name concepts.
    """
    if experiment.library is not None:
        return sorted(Library(experiment.library))

    classes = suite_of(experiment).classes()
    if sets not in ("list", "order"):
        raise UsageError(
            f"without a library, which --concepts? suite {experiment.suite!r} asks for {classes}"
        )

    return list(dict.fromkeys(label for labels in classes.values() for label in labels))
