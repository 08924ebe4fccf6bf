"""What several verbs make of their arguments: settings, strengths, prompts, a workspace."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from multierase.errors import UsageError
from multierase.evaluation.experiment import Experiment, Method
from multierase.prompts.lists import TaggedPrompt, read_prompts

if TYPE_CHECKING:
    from multierase.separation.crosstalk import Entangled
    from multierase.workspace import Workspace

logger = logging.getLogger(__name__)


def settings_of(kind: type, arguments: Namespace) -> Any:
    """Make a settings dataclass of the flags of its fields.

    Raises:
        UsageError: for values that it does not allow, all at once.
    """
    values = {field.name: arguments[field.name] for field in dataclasses.fields(kind)}
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


def strengths_of(given: Sequence[str], names: Collection[str]) -> dict[str, float]:
    """Read ``["Noto=0.5", "Twemoji"]`` as ``{"Noto": 0.5, "Twemoji": 1.0}``.

    A name may contain ``=``: what is a name as it stands is one, and else the last ``=`` parts the
    name from the strength.

    Args:
        names: the concepts of the library.

    Raises:
        UsageError: for a strength that is no number, or a concept with two strengths.
    """
    strengths: dict[str, float] = {}
    for item in given:
        name, strength = _name_and_strength(item, names)
        if strengths.setdefault(name, strength) != strength:
            raise UsageError(
                f"--erase gives {name!r} the strengths {strengths[name]:g} and {strength:g}: "
                "decide for one"
            )

    return strengths


def _name_and_strength(item: str, names: Collection[str]) -> tuple[str, float]:
    name, equals, strength = item.rpartition("=")
    if item in names or not equals:
        return item, 1.0

    try:
        return name, float(strength)
    except ValueError:
        raise UsageError(
            f"--erase {item!r}: give NAME or NAME=STRENGTH, the strength a number; the library "
            f"holds no concept of the whole name {item!r}"
        ) from None


def listed_in(path: str | None) -> list[TaggedPrompt]:
    """Read a file of prompts, if one is given."""
    return read_prompts(path) if path else []


def warn_of_old_lists(arguments: Namespace, *flags: str) -> None:
    """Warn of ``--prompts "[a, b]"``, which was a list once and now is one prompt."""
    for flag in flags:
        for value in arguments[flag]:
            if value.startswith("[") and value.endswith("]"):
                logger.warning(
                    "--%s %r is taken as one prompt; give several as --%s A B", flag, value, flag
                )


def announce(what: str) -> None:
    """Say what is being done before torch is imported, which takes seconds."""
    logger.info("%s ...", what)


def open_workspace(arguments: Namespace, *, said: bool = False, **more: Any) -> Workspace:
    """Open the workspace of the flags that every verb with a base has.

    Args:
        said: ``announce`` was called already.
    """
    if not said:
        announce(f"loading {arguments.base}")
    from multierase.workspace import Workspace

    loading = loading_of(arguments)
    return Workspace(library=arguments.library, base=arguments.base, **loading, **more)


def loading_of(arguments: Namespace) -> dict[str, Any]:
    """Return how a base is loaded, by the flags that every verb with a base has."""
    names = ("base_config", "device", "dtype", "t5_length", "resolution", "offload")

    return {name: arguments[name] for name in names}


def experiment_fields(arguments: Namespace) -> Mapping[str, Any]:
    """Return the fields of an experiment, but for its method."""
    from multierase.evaluation.suites import default_suite

    names = {field.name for field in dataclasses.fields(Experiment)} - {"method", "keep"}
    fields = {name: arguments[name] for name in sorted(names)}
    fields["suite"] = arguments.suite or default_suite(arguments.base)

    return {**fields, "keep": tuple(listed_in(arguments.keep_file))}


def experiment_of(arguments: Namespace) -> Experiment:
    """Make the experiment of one way to erase; a peer's files are one."""
    method: Method = "peer" if arguments.peer is not None else arguments.method

    return Experiment(method=method, **experiment_fields(arguments))


def warn_of_deviations(deviations: Mapping[str, float]) -> None:
    """Warn of concepts whose effect in a composition is far from their increment's own."""
    from multierase.separation.crosstalk import ENTANGLED

    for concept, deviation in deviations.items():
        if deviation > ENTANGLED:
            logger.warning(
                "the effect on %r differs by %.0f %% from what its increment does alone: look at "
                "its pictures, or try another --solve",
                concept,
                100 * deviation,
            )


def warn_of_entangled(pairs: Iterable[Entangled]) -> None:
    """Warn of concepts of which erasing the first moves the second."""
    for pair in pairs:
        logger.warning(
            "%r and %r are entangled: erasing the first moves the second, %.2f of itself",
            pair.erased,
            pair.moved,
            pair.share,
        )
