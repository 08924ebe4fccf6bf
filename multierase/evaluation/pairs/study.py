"""The questions of a study, and their pictures."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar, cast, get_args

from PIL import Image

from multierase.errors import MultieraseError, suggest
from multierase.files import digest_bytes
from multierase.increments.header import Header
from multierase.methods import as_concepts
from multierase.pictures import to_picture
from multierase.prompts import wording
from multierase.prompts.concepts import Concept
from multierase.sampling import SamplingSettings
from multierase.serving import Request, Server
from multierase.workspace import Workspace

T = TypeVar("T")
Condition = Literal["base", "erased", "kept", "another"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
ASKED = "How sure are you that the sixth picture is by the same artist as the five?"
SCALE = {1: "surely not", 2: "rather not", 3: "cannot say", 4: "rather sure", 5: "surely"}
MOST_QUESTIONS, MOST_REFERENCES = 100, 12


@dataclass(frozen=True)
class StudySettings:
    """The design of a study.

    Args:
        concepts: names of concepts of the library, or ``Concept`` objects that bring sentences of
            their own. A name is asked for with the held-back sentences of its increment's
            certificate; without one, with the prompts that it was erased with.
        erased: the composed set, as strengths by concept or a list of concepts; by default all of
            ``concepts``. A concept that is asked about and not erased is ``kept``: the paper's
            second question, how much an erasure disturbs others.
        questions: for each concept and each source of the sixth picture.
        references: pictures beside the sixth.
        seed: of all that is drawn: sentences, seeds of pictures, the order.
        sampling: how pictures are made.

    Raises:
        ValueError: for values out of range; all of them at once.
    """

    concepts: Sequence[Concept | str]
    erased: Mapping[str, float] | Sequence[str] | None = field(default=None, hash=False)
    questions: int = 4
    references: int = 5
    seed: int = 0
    sampling: SamplingSettings = field(default_factory=SamplingSettings)

    def __post_init__(self) -> None:
        problems = [*self._normalise(), *self._problems()]
        if problems:
            raise ValueError("study settings: " + "; ".join(problems))

    @property
    def named(self) -> tuple[Concept, ...]:
        """The concepts, each a ``Concept``."""
        return tuple(as_concepts(self.concepts))

    @property
    def strengths(self) -> dict[str, float]:
        """The composed set, sorted, without strengths of 0."""
        erased = self.erased
        if erased is None:
            erased = [concept.name for concept in self.named]

        # Requests read sets in the same way, and keep them as strengths.
        return dict(cast(Mapping[str, float], Request("", erased=erased).erased))

    def _normalise(self) -> Iterator[str]:
        """Keep copies, which the caller cannot change, and yield what cannot be read."""
        given = self.concepts
        if isinstance(given, str) or not all(isinstance(one, str | Concept) for one in given):
            yield f"concepts is {given!r}, give a list of concepts"
            return
        try:
            object.__setattr__(self, "concepts", tuple(as_concepts(given)))
            object.__setattr__(self, "erased", self.strengths)
        except (MultieraseError, ValueError) as error:
            yield str(error)

    def _problems(self) -> Iterator[str]:
        if isinstance(self.erased, dict):
            if not self.erased:
                yield "nothing is erased, give one concept or more"
            for name, strength in self.erased.items():
                if not isinstance(strength, int | float) or not math.isfinite(strength):
                    yield f"the strength of {name!r} is {strength!r}, give a finite number"
        for name, most in (("questions", MOST_QUESTIONS), ("references", MOST_REFERENCES)):
            if not _whole(getattr(self, name), 1, most):
                given = getattr(self, name)
                yield f"{name} is {given!r}, give a whole number from 1 to {most}"
        if not _whole(self.seed, 0, 2**63):
            yield f"seed is {self.seed!r}, give a whole number, 0 or more"


@dataclass(frozen=True)
class Question:
    """A question: does the sixth picture belong to the others?

    ``id`` and ``concept`` may be shown. The rest tells the source of the sixth picture, and is
    left out of the text form, which could end on a page or in its log.

    Args:
        id: its place in the study's shuffled list.
        concept: whose pictures the references are.
        references: of the base.
        sixth: of ``condition``: the ``base`` asked for the concept; the composed set asked for the
            same, whether the concept is ``erased`` by it or ``kept``; or the base asked for
            ``another`` concept.
    """

    id: str
    concept: str
    references: tuple[Request, ...] = field(repr=False)
    sixth: Request = field(repr=False)
    condition: Condition = field(repr=False)


@dataclass(frozen=True)
class Shown:
    """The pictures of a question."""

    references: tuple[Image.Image, ...]
    sixth: Image.Image


class Study:
    """Questions with the pictures that they show; made by ``Study.of``.

    Args:
        id: the digest of all that the pictures depend on. Another base, library or setting is
            another study.
        base: the name of the base.
        questions: in their shuffled order.
        server: which makes the pictures.
        sampling: how pictures are made.
    """

    def __init__(
        self,
        id: str,
        base: str,
        questions: Sequence[Question],
        server: Server,
        sampling: SamplingSettings,
    ):
        self.id, self.base = id, base
        self._questions = {question.id: question for question in questions}
        self._server, self._sampling = server, sampling
        self._lock = threading.Lock()
        self._last: tuple[str, Shown] | None = None

    @classmethod
    def of(cls, workspace: Workspace, settings: StudySettings) -> Study:
        """Plan a study of a workspace's base and library. No picture is made yet.

        Raises:
            UnknownConcept: for a concept without an increment, with the nearest match.
            UsageError: for a workspace without a library.
            ValueError: for an increment of another base, or a certificate that is damaged.
            ModelHeld: if another composer has concepts erased on the model.
        """
        library, strengths = workspace.library, settings.strengths
        library.require(dict.fromkeys([*(one.name for one in settings.named), *strengths]))
        workspace.composer.check(strengths)

        headers = library.headers()
        sentences = {name: _sentences(header) for name, header in headers.items()}
        for concept in settings.named:
            if not concept.is_bare:
                pairs = zip(concept.prompts, concept.contexts, strict=True)
                sentences[concept.name] = [_Sentence(*pair) for pair in pairs]
        questions = _Draw(settings, sentences).questions()

        model = workspace.model
        depends: dict[str, Any] = {
            "base": [model.name, *model.latent_shape],
            "solve": workspace.composer.solve,
            "increments": {name: header.sha256 for name, header in headers.items()},
            "sampling": asdict(settings.sampling),
            "questions": [asdict(question) for question in questions],
        }
        digest = digest_bytes(json.dumps(depends, sort_keys=True), length=16)
        return cls(digest, model.name, questions, Server(workspace), settings.sampling)

    def questions(self, participant: str = "") -> list[Question]:
        """Return all questions; each participant has an own order, always the same.

        What comes first is judged by another measure than what comes last, and that must not fall
        on one picture for all participants.
        """
        questions = list(self._questions.values())
        if participant:
            random.Random(f"{self.id}/{participant}").shuffle(questions)

        return questions

    def question(self, id: str) -> Question:
        """Return one question. Raises ``ValueError`` for an id that is none of this study's."""
        if id not in self._questions:
            last = len(self._questions)
            raise ValueError(
                f"no question {id!r:.40} in this study{suggest(str(id), self._questions)}; it has "
                f"q001 to q{last:03d}"
            )

        return self._questions[id]

    def pictures(self, question: Question) -> Shown:
        """Make the pictures of a question, all in one batch; the last question's are kept.

        Whoever shows questions one after another may ask for the next one's while a participant
        still looks: then nobody can tell a source by how long its picture takes.

        Raises:
            ValueError: if the base draws nothing: each reference has one colour all over.
            ModelHeld, ModelChanged, DeviceError: see ``Server.generate``.
        """
        with self._lock:
            if self._last is None or self._last[0] != question.id:
                self._last = question.id, self._made(question)

            return self._last[1]

    def _made(self, question: Question) -> Shown:
        requests = [*question.references, question.sixth]
        made = self._server.generate(requests, self._sampling)
        *references, sixth = (to_picture(image) for image in made)

        if all(_is_flat(picture) for picture in references):
            prompt = question.references[0].prompt
            raise ValueError(
                f"the base {self.base} draws nothing for {prompt!r}: every picture has one colour; "
                "load it in float32, take more inference_steps, or ask about another concept"
            )
        return Shown(tuple(references), sixth)


@dataclass(frozen=True)
class _Sentence:
    """A prompt about a concept, and the same without it."""

    prompt: str
    context: str = ""

    @property
    def thing(self) -> str:
        """The rest of what the prompt is about: "a church" and "church" are one thing."""
        return wording.plain(self.context)


class _Draw:
    """Draws the questions of a study.

    Args:
        sentences: about each concept of the library.
    """

    def __init__(self, settings: StudySettings, sentences: Mapping[str, Sequence[_Sentence]]):
        self.settings, self.sentences = settings, sentences
        each = settings.questions * 3 * (settings.references + 1)
        seeds = self._random("seeds").sample(range(2**31), len(settings.named) * each)
        self._seeds = iter(seeds)  # no two pictures of a study start from the same noise

    def questions(self) -> list[Question]:
        """Return the questions in random order, named by their places."""
        drawn: list[Question] = []
        for concept in self.settings.named:
            drawn += self._about(concept.name)
        self._random("order").shuffle(drawn)

        return [replace(one, id=f"q{place:03d}") for place, one in enumerate(drawn, 1)]

    def _about(self, concept: str) -> Iterator[Question]:
        """Yield questions about a concept: the same sentences for each source."""
        rng, strengths = self._random(f"about/{concept}"), self.settings.strengths
        asked = _shuffled(self.sentences[concept], rng)
        others = _shuffled((name for name in self.sentences if name != concept), rng)
        composed: Condition = "erased" if concept in strengths else "kept"

        for turn in range(self.settings.questions):
            own = asked[turn % len(asked)]
            other = self._other(own, others[turn % len(others)], turn) if others else own.context
            sources: list[tuple[Condition, str, Mapping[str, float]]] = [
                ("base", own.prompt, {}),
                (composed, own.prompt, strengths),
                ("another", other, {}),
            ]
            for condition, prompt, erased in sources:
                sixth = Request(prompt, next(self._seeds), erased)
                yield Question("", concept, self._references(asked, own, rng), sixth, condition)

    def _references(
        self, asked: Sequence[_Sentence], own: _Sentence, rng: random.Random
    ) -> tuple[Request, ...]:
        """Return requests about other things than the sixth, or else with other sentences.

        Where the same thing is shown twice, people compare the things and not who made them.
        """
        others = [one for one in asked if one != own]
        apart = [one for one in others if one.thing != own.thing]
        rest = _shuffled(apart or others or [own], rng)

        return tuple(
            Request(rest[place % len(rest)].prompt, next(self._seeds))
            for place in range(self.settings.references)
        )

    def _other(self, own: _Sentence, other: str, turn: int) -> str:
        """Return a sentence about another concept, about the same things if there is one."""
        theirs = self.sentences[other]
        for sentence in theirs:
            if own.thing and sentence.thing == own.thing:
                return sentence.prompt

        return theirs[turn % len(theirs)].prompt

    def _random(self, what: str) -> random.Random:
        return random.Random(f"{self.settings.seed}/{what}")


def _sentences(header: Header) -> list[_Sentence]:
    """Return sentences about an increment's concept: held back, trained with, or its name."""
    made = header.provenance
    asked = (made.certificate or {}).get("questions") or []
    try:
        own = [one for one in asked if one["about"] == "own"]
        found = {str(one["prompt"]): str(one["context"]) for one in own}
    except (TypeError, KeyError) as error:
        raise ValueError(f"the certificate of {header.concept!r} is damaged: {error!r}") from error
    if not found:
        found = dict(zip(made.prompts, made.contexts, strict=False))

    return [_Sentence(*pair) for pair in found.items()] or [_Sentence(header.concept)]


def _shuffled(items: Iterable[T], rng: random.Random) -> list[T]:
    items = list(items)

    return rng.sample(items, len(items))


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_flat(picture: Image.Image) -> bool:
    colours = picture.getcolors(maxcolors=2)  # None for more

    return colours is not None and len(colours) == 1
