"""The request for an erasure, resolved once: sentences, contexts, keep-lists, directions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from multierase.errors import ConceptRefused, UsageError
from multierase.files import digest_bytes
from multierase.increments.provenance import Separation
from multierase.models.model import Model
from multierase.prompts.concepts import Concept
from multierase.prompts.lists import not_about
from multierase.separation.dictionary import Dictionary
from multierase.separation.directions import Directions, covariance, directions, gram
from multierase.training.certificate import Question
from multierase.training.defaults import (
    AUTO_KIND,
    DEFAULT_ETA,
    NOTHING,
    kind_of,
    with_defaults,
)
from multierase.training.optimizers import optimizer_class
from multierase.training.sentences import Sentences
from multierase.training.settings import EraseSettings
from multierase.training.trial import Points, Tried

logger = logging.getLogger(__name__)

Objective = Literal["esd", "correlation"]

NEAREST = 4  # siblings, if none are given
SIBLING_SENTENCES = 32  # about each


@dataclass(frozen=True)
class Plan:
    """One erasure, ready to be trained.

    Args:
        concept: with its sentences and their contexts.
        settings: as they were asked for, with the kind's defaults filled in.
        objective: ``esd`` or SepME's ``correlation``.
        parameters: names of the parameters that may change.
        readers: those of them that read one stream alone, with the stream.
        exact: prompts that separated parameters leave exactly as they are.
        listed: prompts that they change as little as can be, beside the dictionary.
        kept: prompts of the keep loss.
        directions: by stream the directions that its readers are trained along; empty if they are
            trained freely.
        beside: names of the concepts under whose increments it is trained too.
        given: siblings that were named, in place of the nearest.
        tried: what the base understands of the concept; ``None`` without a kind.
        watched: held-back sentences that may end the training.
        asked: held-back sentences and kept prompts of the certificate.
        dictionary: number of sentences of the dictionary that is kept.
        points: where the questions are asked, if there are any.
        spent: evaluations that the trial took.
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
    given: tuple[str, ...]
    tried: Tried | None
    watched: tuple[Question, ...]
    asked: tuple[Question, ...]
    dictionary: int
    points: Points | None
    spent: int

    @property
    def eta(self) -> float:
        """The strength of the negative guidance."""
        return DEFAULT_ETA if self.settings.eta is None else self.settings.eta

    @property
    def steps(self) -> int:
        """The most optimiser steps."""
        return self.settings.steps or 0

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
        if self.listed or self.dictionary:
            digest = digest_bytes("\n".join(self.listed), length=16)
            in_mean = {"prompts": len(self.listed), "sha256": digest}
            if self.tried is not None:
                in_mean |= {"dictionary": self.dictionary, "forms": list(self.tried.forms)}
            if self.given:
                in_mean["siblings"] = list(self.given)
        found = {
            stream: {"rank": float(each.rank), "residual": round(each.residual, 5)}
            for stream, each in self.directions.items()
        }

        return Separation(self.kept_exactly, in_mean, found)


class Planner:
    """Resolves the erasures of one request, which share a kind, its trial and its dictionary.

    Args:
        model: the frozen base.
        settings: as they were asked for.
        objective: ``esd`` or SepME's ``correlation``.
        library: names of concepts that are erased, before or in this run: siblings are among them.
        folder: where the dictionary's forms are kept; see ``Dictionary``.
        progress: show progress bars on stderr.
    """

    def __init__(
        self,
        model: Model,
        settings: EraseSettings,
        objective: Objective = "esd",
        *,
        library: Iterable[str] = (),
        folder: str | Path | None = None,
        progress: bool = False,
    ):
        self.model, self.objective, self.library = model, objective, tuple(library)
        kind = kind_of(model, settings.kind)
        self.kind, self.settings = kind or NOTHING, with_defaults(settings, kind, model)
        if kind and settings.kind == AUTO_KIND:
            logger.info("kind %s: %s (--kind takes another)", kind.name, kind.about)
        self.scope = self.settings.scope or model.exact_scope
        optimizer_class(self.settings.optimizer)  # raises early
        self.known = model.known_prompts if settings.known else []
        self.sentences = Sentences(model, self.kind, self.known, self.settings.seed)
        self.folder, self.progress = folder, progress
        self._dictionaries: dict[tuple[str, ...], Dictionary] = {}

    def _dictionary(self, tried: Tried | None) -> Dictionary | None:
        """Return what is kept beside every list; ``None`` without a kind."""
        if tried is None:
            return None
        if tried.forms not in self._dictionaries:
            self._dictionaries[tried.forms] = Dictionary.of(
                self.model, self.kind, tried.forms, self.folder, progress=self.progress
            )

        return self._dictionaries[tried.forms]

    def plan(self, concept: Concept, keep: Sequence[str] = (), beside: Sequence[str] = ()) -> Plan:
        """Resolve everything that an erasure of ``concept`` needs to know.

        Args:
            keep: more prompts that must not change at all.
            beside: names of the concepts under whose increments it is trained too; not of those
                that only share the run.

        Raises:
            UsageError: for a sibling that is the concept itself.
            ValueError: for a scope that the model does not have, or a prompt that its tokenizer
                cannot represent.
            ConceptRefused: if the base does not draw the concept, or the prompts to keep exactly
                use every direction that the concept uses.
        """
        model = self.model
        settings = replace(self.settings, keep=(*self.settings.keep, *keep))
        self._require_sensible(concept, settings)
        told = self.sentences.of(concept)
        concept, tried = told.concept, told.tried
        parameters = tuple(model.scope_parameters(self.scope))
        readers = {name: stream for name, stream in model.readers.items() if name in parameters}
        # A scope without readers has no directions, so nothing is kept in the mean,
        # and no overlap of tokens can refuse it.
        streams = sorted(set(readers.values())) if settings.decouple else []
        dictionary = self._dictionary(tried) if streams else None
        to_stay: tuple[Question, ...] = ()
        if not concept.anchor and not concept.erase_from:
            concept = replace(concept, anchor=self.kind.anchor)
        for prompt in (*concept.prompts, concept.erase_from, concept.anchor):
            if prompt:
                model.require_representable(prompt)

        exact = ("", *settings.keep) if settings.decouple else ()
        listed = tuple(not_about(self.known, concept.name))

        if streams and concept.name.lower() in {prompt.lower() for prompt in settings.keep}:
            raise ConceptRefused(
                f"{concept.name!r} is among the prompts to keep exactly, so nothing is left to "
                "erase it by: keep other prompts",
                concept.name,
            )
        siblings = settings.siblings or self._nearest(concept, exact, listed, dictionary, streams)
        settings = replace(settings, siblings=siblings)
        near = self._about_siblings(siblings, tried)
        found = {s: self._directions(concept, exact, listed, near, dictionary, s) for s in streams}
        if told.asked and tried:
            to_stay = self.sentences.questions.to_stay(concept.name, tried, siblings, listed)
        kept = (*settings.keep, *near, *not_about(self.known, concept.name, *beside))

        return Plan(
            concept=concept,
            settings=settings,
            objective=self.objective,
            parameters=parameters,
            readers=readers,
            exact=exact,
            listed=(*listed, *near),
            kept=kept if settings.keep_weight else (),
            directions=found,
            beside=tuple(beside),
            given=self.settings.siblings,
            tried=tried,
            watched=told.watched,
            asked=(*told.asked, *to_stay),
            dictionary=dictionary.count if dictionary else 0,
            points=self.sentences.trial.points if tried else None,
            spent=self.sentences.trial.spent(),
        )

    def _require_sensible(self, concept: Concept, settings: EraseSettings) -> None:
        name = concept.name.lower()
        same = [sibling for sibling in settings.siblings if sibling.lower() == name]
        if same:
            raise UsageError(
                f"the sibling {same[0]!r} is the concept itself: give names that are to stay"
            )

    def _nearest(
        self,
        concept: Concept,
        exact: Sequence[str],
        listed: Sequence[str],
        dictionary: Dictionary | None,
        streams: Sequence[str],
    ) -> tuple[str, ...]:
        """Return the names whose tokens the concept's directions would move most, in the mean."""
        if not self.kind.sentences or not streams:
            return ()
        known = dict.fromkeys([*self.library, *self.kind.beside])
        beside = replace(self.kind, beside=tuple(known)).names_beside(concept.name)
        names = [name for name in beside if self.model.reads_whole(name)]

        stream = streams[0]
        basis = self._directions(concept, exact, listed, (), dictionary, stream).basis
        moves = {}
        for name in names:
            tokens = self.model.own_tokens([name], stream).float()
            moves[name] = (tokens @ basis).square().sum(1).mean().item()

        return tuple(sorted(moves, key=lambda name: -moves[name])[:NEAREST])

    def _about_siblings(self, siblings: Sequence[str], tried: Tried | None) -> tuple[str, ...]:
        if not tried:
            return tuple(siblings)

        found = []
        for name in siblings:
            found += self.sentences.about(name, tried.forms, SIBLING_SENTENCES)

        return tuple(prompt for prompt in dict.fromkeys(found) if self.model.reads_whole(prompt))

    def _directions(
        self,
        concept: Concept,
        exact: Sequence[str],
        listed: Sequence[str],
        near: Sequence[str],
        dictionary: Dictionary | None,
        stream: str,
    ) -> Directions:
        model, settings = self.model, self.settings
        lists = [gram(model.tokens(prompts, stream)) for prompts in (listed, near) if prompts]
        if dictionary:
            lists.append(dictionary.gram(stream, [concept.name]))
        kept = lists[0] if lists else None
        if len(lists) > 1:  # each list weighs the same, as in the joint solve
            kept = torch.stack([covariance(matrix) for matrix in lists]).sum(0)

        try:
            return directions(
                model.tokens(concept.prompts, stream),
                model.tokens(exact, stream),
                kept,
                tolerance=settings.tolerance,
                ridge=settings.ridge,
            )
        except ConceptRefused as error:
            error.concept = concept.name
            raise
