"""The request for an erasure, resolved once: sentences, contexts, keep-lists, directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from multierase.errors import ConceptRefused
from multierase.files import digest_bytes
from multierase.increments.provenance import Separation
from multierase.models.model import Model
from multierase.prompts.concepts import Concept
from multierase.prompts.lists import not_about
from multierase.separation.directions import Directions, directions, gram
from multierase.training.settings import EraseSettings

Objective = Literal["esd", "correlation"]


@dataclass(frozen=True)
class Plan:
    """One erasure, ready to be trained.

    Args:
        concept: with its sentences and their contexts.
        settings: as they were asked for.
        objective: ``esd`` or SepME's ``correlation``.
        parameters: names of the parameters that may change.
        readers: those of them that read one stream alone, with the stream.
        exact: prompts that separated parameters leave exactly as they are.
        listed: prompts that they change as little as can be.
        kept: prompts of the keep loss.
        directions: by stream the directions that its readers are trained along; empty if they are
            trained freely.
        beside: names of the concepts under whose increments it is trained too.
    """

    concept: Concept
    settings: EraseSettings
    objective: Objective
    parameters: tuple[str, ...]
    readers: Mapping[str, str]
    exact: tuple[str, ...]
    listed: tuple[str, ...]
    kept: tuple[str, ...]
    directions: Mapping[str, Directions]
    beside: tuple[str, ...]

    @property
    def kept_exactly(self) -> tuple[str, ...]:
        """The prompts whose predictions cannot change, whatever is learned.

        One parameter that reads anything but text, or that is trained freely, moves every prompt.
        """
        # The empty prompt and `keep` alone are exact; the listed prompts are kept in the mean.
        separated = all(self.readers.get(name) in self.directions for name in self.parameters)

        return self.exact if separated else ()

    @property
    def asks_null(self) -> bool:
        """Whether the correlation needs the erased model's own prediction for the context.

        SepME's ``ε_θ(∅) = ε*(∅)`` holds only where the context is kept exactly.
        """
        if self.objective != "correlation":
            return False

        return not set(self.concept.contexts) <= set(self.kept_exactly)

    @property
    def separation(self) -> Separation:
        """What the increment leaves as it was, for its provenance."""
        if not self.directions:
            return Separation()

        in_mean = None
        if self.listed:
            digest = digest_bytes("\n".join(self.listed), length=16)
            in_mean = {"prompts": len(self.listed), "sha256": digest}
        found = {
            stream: {"rank": float(each.rank), "residual": round(each.residual, 5)}
            for stream, each in self.directions.items()
        }

        return Separation(self.kept_exactly, in_mean, found)


def resolve(
    model: Model,
    concept: Concept,
    settings: EraseSettings,
    objective: Objective,
    beside: Sequence[str] = (),
) -> Plan:
    """Resolve everything that an erasure of ``concept`` needs to know.

    Args:
        beside: names of the concepts under whose increments it is trained too; not of those that
            only share the run.

    Raises:
        ValueError: for a scope that the model does not have, or a prompt that its tokenizer cannot
            represent.
        ConceptRefused: if the prompts to keep exactly use every direction that the concept uses.
    """
    known = model.known_prompts if settings.known else []
    concept = concept.with_sentences(known)
    for prompt in (*concept.prompts, concept.erase_from, concept.anchor):
        if prompt:
            model.require_representable(prompt)

    parameters = tuple(model.scope_parameters(settings.scope))
    readers = {name: stream for name, stream in model.readers.items() if name in parameters}
    exact = ("", *settings.keep) if settings.decouple else ()
    listed = tuple(not_about(known, concept.name))

    # A scope without readers has no directions, so no overlap of tokens can refuse it.
    found = {}
    if settings.decouple:
        for stream in sorted(set(readers.values())):
            found[stream] = _directions(model, concept, settings, exact, listed, stream)
    kept = (*settings.keep, *not_about(known, concept.name, *beside))

    return Plan(
        concept=concept,
        settings=settings,
        objective=objective,
        parameters=parameters,
        readers=readers,
        exact=exact,
        listed=listed,
        kept=kept if settings.keep_weight else (),
        directions=found,
        beside=tuple(beside),
    )


def _directions(
    model: Model,
    concept: Concept,
    settings: EraseSettings,
    exact: Sequence[str],
    listed: Sequence[str],
    stream: str,
) -> Directions:
    own = model.tokens(concept.prompts, stream)
    kept_exactly = model.tokens(exact, stream)
    kept = gram(model.tokens(listed, stream)) if listed else None

    try:
        return directions(
            own, kept_exactly, kept, tolerance=settings.tolerance, ridge=settings.ridge
        )
    except ConceptRefused as error:
        error.concept = concept.name
        raise
