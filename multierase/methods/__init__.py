"""Methods that make increments, each with its paper. Names and descriptions need no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from multierase.errors import ConceptRefused, UsageError, suggest
from multierase.prompts.concepts import Concept, require_distinct
from multierase.prompts.lists import TaggedPrompt
from multierase.training.settings import Asks, EraseSettings

if TYPE_CHECKING:
    from multierase.increments.value import Increment
    from multierase.models.model import Model
    from multierase.training.watching import Watch


@dataclass(frozen=True)
class Refusal:
    """A concept that a method could not erase, and the reason."""

    concept: str
    reason: str


@dataclass(frozen=True)
class Order:
    """What a method is asked to make.

    Args:
        concepts: what to erase, each into its own increment.
        settings: for all of them.
        keep: more prompts that must not change; for each concept, the prompts about it are left
            out.
        simultaneous: train each under the increments of all.
        checkpoints: folder for the state of interrupted runs; ``None`` keeps none.
        resume: go on from a checkpoint that is there.
        progress: show a progress bar on stderr.
        library: names of concepts that were erased before: their names may be siblings.
        cache: folder for what takes long to make; ``None`` keeps nothing.
        watch: told of each step of a training; ends it early if it says so.
    """

    concepts: Sequence[Concept]
    settings: EraseSettings
    keep: Sequence[TaggedPrompt] = ()
    simultaneous: bool = False
    checkpoints: Path | None = None
    resume: bool = False
    progress: bool = False
    library: Sequence[str] = ()
    cache: Path | None = None
    watch: Watch | None = None


class Produce(Protocol):
    """Makes increments one after another, in the order of the concepts where it can.

    Save each result before you ask for the next one: then its checkpoint is removed.
    """

    def __call__(self, model: Model, order: Order) -> Iterator[Increment | Refusal]: ...


@dataclass(frozen=True)
class Method:
    """A way to make increments.

    Args:
        about: one line for the help.
        paper: its address.
        module: where its function ``produce`` is.
        asks: what it learns of the denoiser: its negative guidance, the noise of pictures that it
            draws, or nothing, for it solves a closed form.
    """

    about: str
    paper: str
    module: str
    asks: Asks = "guidance"

    @property
    def trains(self) -> bool:
        """Does it fine-tune weights?"""
        return self.asks != "nothing"

    @property
    def produce(self) -> Produce:
        """The method's function; it is imported when it is first needed."""
        return import_module(self.module).produce


METHODS: dict[str, Method] = {
    "esd": Method(
        "fine-tunes towards ESD's negative guidance",
        "https://arxiv.org/abs/2303.07345",
        "multierase.methods.esd",
    ),
    "sepme": Method(
        "fine-tunes against SepME's concept correlation; needs its early stop",
        "https://arxiv.org/abs/2402.05947",
        "multierase.methods.sepme",
    ),
    "uce": Method(
        "solves Unified Concept Editing's closed form; no training",
        "https://arxiv.org/abs/2308.14761",
        "multierase.methods.uce",
        asks="nothing",
    ),
    "rece": Method(
        "solves RECE's closed form, UCE and then what still calls the concept up; no training",
        "https://arxiv.org/abs/2407.12383",
        "multierase.methods.rece",
        asks="nothing",
    ),
    "mace": Method(
        "solves MACE's closed-form refinement of the words around a concept; no training",
        "https://arxiv.org/abs/2403.06135",
        "multierase.methods.mace",
        asks="nothing",
    ),
    "speed": Method(
        "solves SPEED's closed form in the null space of what is kept; no training",
        "https://arxiv.org/abs/2503.07392",
        "multierase.methods.speed",
        asks="nothing",
    ),
    "oce": Method(
        "turns attention's values by Orthogonal Concept Erasure's closed form; no training",
        "https://arxiv.org/abs/2605.28902",
        "multierase.methods.oce",
        asks="nothing",
    ),
    "double-projection": Method(
        "solves Double Projections' closed form beside what is kept; no training",
        "https://arxiv.org/abs/2604.10032",
        "multierase.methods.double_projection",
        asks="nothing",
    ),
    "task-vector": Method(
        "fine-tunes towards a concept and takes the opposite",
        "https://arxiv.org/abs/2212.04089",
        "multierase.methods.task_vector",
        asks="pictures",
    ),
}


def method_named(name: str) -> Method:
    """Return the method of this name. Raises ``UsageError`` for an unknown one."""
    if name not in METHODS:
        raise UsageError(
            f"unknown method {name!r}{suggest(name, METHODS)}; methods: {sorted(METHODS)}"
        )

    return METHODS[name]


def erase(
    model: Model,
    concept: Concept | str,
    settings: EraseSettings | None = None,
    *,
    method: str = "esd",
    keep: Sequence[TaggedPrompt] = (),
    progress: bool = False,
) -> Increment:
    """Train an increment that erases ``concept``, and return it; the model is unchanged.

    Nothing is written; ``multierase.Workspace.train`` stores increments, and can be resumed.

    Args:
        model: the frozen base.
        concept: a ``Concept``, or its name.
        settings: see ``EraseSettings``.
        method: a name in ``METHODS``.
        keep: prompts that must not change.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: for settings out of range, an unknown scope, or a concept that the tokenizer
            cannot represent.
        ConceptRefused: if the prompts to keep exactly use every direction that the concept uses.
        FloatingPointError: if the training diverges.
    """
    (increment,) = erase_several(
        model, [concept], settings, method=method, keep=keep, progress=progress
    )
    return increment


def erase_several(
    model: Model,
    concepts: Sequence[Concept | str],
    settings: EraseSettings | None = None,
    *,
    method: str = "esd",
    simultaneous: bool = False,
    keep: Sequence[TaggedPrompt] = (),
    progress: bool = False,
) -> list[Increment]:
    """Erase several concepts, each into its own increment.

    If the scope has only layers that read the text alone, the concepts share batches. Each
    increment equals one that was trained alone, up to rounding.

    Args:
        simultaneous: train each under the increments of all instead (SepME's simultaneous
            optimisation, arXiv 2402.05947, eq. 34-36).

    The other arguments and errors are those of ``erase``.
    """
    order = Order(
        concepts=as_concepts(concepts),
        settings=settings or EraseSettings(),
        keep=keep,
        simultaneous=simultaneous,
        progress=progress,
    )

    increments: list[Increment] = []
    for result in method_named(method).produce(model, order):
        if isinstance(result, Refusal):
            raise ConceptRefused(result.reason, result.concept)
        increments.append(result)
    return increments


def as_concepts(given: Sequence[Concept | str]) -> list[Concept]:
    """Return concepts for names; raises as ``require_distinct`` and ``Concept`` do."""
    concepts = [Concept(one) if isinstance(one, str) else one for one in given]
    if not concepts:
        raise UsageError("name at least one concept")
    require_distinct([concept.name for concept in concepts])

    return concepts
