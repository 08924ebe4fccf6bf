"""What the page does, one request after another, on one model. No Gradio here, and no tensors."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from multierase.errors import UsageError, suggest
from multierase.files import digest_tensors
from multierase.generate import generate
from multierase.increments.provenance import in_words
from multierase.methods import Refusal, method_named
from multierase.pictures import difference_map, to_picture
from multierase.prompts.concepts import Concept
from multierase.prompts.kind import kinds_beside
from multierase.sampling import SamplingSettings
from multierase.serving import Request, Server
from multierase.training.defaults import AUTO_KIND, NO_KIND
from multierase.training.settings import EraseSettings
from multierase.training.watching import Progress
from multierase.workspace import Trained, Workspace

MOST_SUBSETS = 4  # concepts: sixteen pictures
PREVIEW_STEPS = 8  # of a training, between two previews

Strengths = Mapping[str, float]


@dataclass(frozen=True)
class Composed:
    """A composition that the model has now.

    Args:
        erased: strengths by concept.
        seconds: that it took.
        is_base: whether all weights are the base's bytes; ``None`` while something is erased.
    """

    erased: Strengths
    seconds: float
    is_base: bool | None


@dataclass(frozen=True)
class Compared:
    """The base's picture, the composed model's, and where they differ."""

    base: Image.Image
    composed: Image.Image
    difference: Image.Image


@dataclass(frozen=True)
class Wanted:
    """An erasure as the page asks for it.

    Args:
        name: the concept's.
        settings: see ``EraseSettings``.
        method: a name in ``METHODS``.
        sentences: in place of the kind's own; none by default.
        resume: go on where a cancelled run of the same request ended.
        overwrite: replace an increment of this name.
        preview: a prompt to draw every few steps; empty for none.
    """

    name: str
    settings: EraseSettings
    method: str = "esd"
    sentences: tuple[str, ...] = ()
    resume: bool = True
    overwrite: bool = False
    preview: str = ""

    @property
    def concept(self) -> Concept:
        """The concept, with the sentences that were asked for."""
        return Concept(self.name.strip(), self.sentences)


@dataclass(frozen=True)
class Step:
    """Progress of an erasure under way.

    Args:
        step, steps: taken, and the most that may be taken.
        degrees: of the steps so far.
        evaluations: so far.
        preview: the newest picture, if one was made since the last step.
    """

    step: int
    steps: int
    degrees: tuple[float, ...]
    evaluations: int
    preview: Image.Image | None


class Session:
    """One model and one library, for any number of browsers.

    Each request says which set it wants, and has the model for itself until it is answered: the
    lock is held while weights are composed, pictures made, or an increment trained. So no browser
    ever sees a model that is composed for another.

    Args:
        workspace: with its library.
    """

    def __init__(self, workspace: Workspace):
        self.workspace, self.server = workspace, Server(workspace)
        self.lock = threading.RLock()
        self._cancelled = threading.Event()
        self._base_bytes = self._digest()

    def warm_up(self) -> None:
        """Read the increments and the dictionary, so that the first switch is as fast as others."""
        with self.lock:
            self.workspace.composer.check(dict.fromkeys(self.concepts(), 1.0))

    def concepts(self) -> list[str]:
        """Return the names in the library, sorted."""
        return sorted(self.workspace.library)

    def kinds(self) -> list[str]:
        """Return the kinds that can be asked for, the base's own among them."""
        return [AUTO_KIND, *kinds_beside(self.workspace.model.kinds), NO_KIND]

    def compose(self, erased: Strengths) -> Composed:
        """Erase exactly these concepts, and say how long it took."""
        with self.lock:
            began = time.perf_counter()
            self.workspace.set(self._checked(erased))
            seconds = time.perf_counter() - began
            now = dict(self.workspace.erased)
            is_base = None if now else self._digest() == self._base_bytes

            return Composed(now, seconds, is_base)

    def compare(
        self, prompt: str, seed: int, erased: Strengths, sampling: SamplingSettings
    ) -> Compared:
        """Make the base's picture and the composed model's, of one prompt and seed."""
        requests = [
            Request(require_prompt(prompt), seed, {}),
            Request(prompt, seed, self._checked(erased)),
        ]
        with self.lock:
            base, composed = self.server.generate(requests, sampling)

        return Compared(to_picture(base), to_picture(composed), difference_map(base, composed))

    def subsets(
        self, concepts: Sequence[str], prompt: str, seed: int, sampling: SamplingSettings
    ) -> list[tuple[Image.Image, str]]:
        """Make one picture for each subset of a few concepts, all of one prompt and seed.

        Returns:
            Each picture with what is erased in it, the base first.

        Raises:
            UsageError: for no concept, or too many.
        """
        require_few(concepts, "the grid")
        sets = []
        for size in range(len(concepts) + 1):
            sets += list(itertools.combinations(concepts, size))
        requests = [
            Request(require_prompt(prompt), seed, self._checked(dict.fromkeys(each, 1.0)))
            for each in sets
        ]
        with self.lock:
            pictures = self.server.generate(requests, sampling)

        captions = [" + ".join(each) or "the base" for each in sets]
        return list(zip(map(to_picture, pictures), captions, strict=True))

    def estimate(self, wanted: Wanted) -> str:
        """Say what an erasure takes at most, before anything starts."""
        self._require_known(wanted)
        with self.alone() as workspace:
            found = workspace.estimate(wanted.settings, wanted.method)

        size = f"a file of {found.bytes / 1e6:.1f} MB"
        if not found.evaluations:
            return f"At most {size}; no training, a few seconds."
        return (
            f"At most {found.evaluations:,} evaluations of the denoiser, about "
            f"{_duration(found.seconds)} of it on this machine, and {size}. The first erasure of a "
            "library also makes its dictionary, once."
        )

    def sentences(self, wanted: Wanted) -> list[str]:
        """Return the sentences that an erasure would be trained with."""
        self._require_known(wanted)
        with self.alone() as workspace:
            return list(workspace.sentences(wanted.concept.name, wanted.settings).prompts)

    def erase(self, wanted: Wanted) -> Iterator[Step | str]:
        """Train an increment, and save it into the library.

        Yields:
            What each step tells, and at the end the certificate in plain words.

        Raises:
            Cancelled: after ``cancel``; the same request goes on from there.
            ConceptRefused, AlreadyThere and others: see ``Workspace.train``.
        """
        self._require_known(wanted)
        told: queue.Queue[Step | str | BaseException] = queue.Queue()
        worker = threading.Thread(target=self._train, args=(wanted, told), daemon=True)
        worker.start()
        try:
            while True:
                news = told.get()
                if isinstance(news, BaseException):
                    raise news
                yield news
                if isinstance(news, str):
                    return
        finally:
            self._cancelled.set()  # whoever has closed the page has left the training, too
            worker.join()
            self._cancelled.clear()

    def begin(self) -> None:
        """Forget a cancel that came when nothing ran."""
        self._cancelled.clear()

    def cancel(self) -> None:
        """End the erasure that is under way, where it can be resumed."""
        self._cancelled.set()

    @contextlib.contextmanager
    def alone(self) -> Iterator[Workspace]:
        """Have the workspace for oneself, with nothing erased, for a block."""
        with self.lock:
            self.workspace.restore_all()
            yield self.workspace

    def _train(self, wanted: Wanted, told: queue.Queue) -> None:
        try:
            with self.alone() as workspace:
                (result,) = workspace.train(
                    wanted.concept,
                    settings=wanted.settings,
                    method=wanted.method,
                    resume=wanted.resume,
                    overwrite=wanted.overwrite,
                    watch=self._watch(wanted, told.put),
                )
            told.put(_in_words(result))
        except BaseException as error:  # in another thread: it is raised where it was asked for
            told.put(error)

    def _watch(self, wanted: Wanted, tell: Callable[[Step], None]) -> Callable[[Progress], bool]:
        def watch(progress: Progress) -> bool:
            picture = None
            due = progress.step % PREVIEW_STEPS == 0 or progress.step == 1
            if wanted.preview.strip() and due and not self._cancelled.is_set():
                with progress.applied(wanted.concept.name):
                    (made,) = generate(self.workspace.model, [wanted.preview], [0])
                picture = to_picture(made)

            (degrees,) = progress.curves.values()
            tell(Step(progress.step, progress.steps, degrees, progress.evaluations, picture))
            return not self._cancelled.is_set()

        return watch

    def _checked(self, erased: Strengths) -> dict[str, float]:
        """Return strengths of concepts that are there; a browser may send anything."""
        if not isinstance(erased, Mapping):
            raise UsageError("what is erased is given as strengths by concept")
        wanted = {str(name): float(strength) for name, strength in erased.items()}
        self.workspace.library.require(list(wanted))

        return wanted

    def require_kind(self, kind: str) -> None:
        """Refuse a kind that the page does not offer: elsewhere it may be any file."""
        kinds = self.kinds()
        if kind not in kinds:
            raise UsageError(f"unknown kind {kind!r}{suggest(kind, kinds)}; kinds: {kinds}")

    def _require_known(self, wanted: Wanted) -> None:
        self.require_kind(wanted.settings.kind)
        method_named(wanted.method)

    def _digest(self) -> str:
        return digest_tensors(self.workspace.model.parameters())


def _in_words(result: Trained | Refusal) -> str:
    if isinstance(result, Refusal):
        return f"Refused: {result.reason}"

    made = result.increment.provenance
    certificate = in_words(made.certificate) if made.certificate else "no sentence was held back"
    cost = f"{made.cost.evaluations:,} evaluations; " if made.cost else ""
    return f"{made.concept}: {certificate}. {cost}saved as {result.path.name}."


def require_prompt(prompt: str) -> str:
    """Return a prompt; raises ``UsageError`` for an empty one."""
    if not prompt.strip():
        raise UsageError("give a prompt: what is to be drawn")

    return prompt


def require_few(concepts: Sequence[str], what: str) -> None:
    """Raise ``UsageError`` unless all subsets of these concepts can be gone through."""
    if not 1 <= len(concepts) <= MOST_SUBSETS:
        raise UsageError(f"{len(concepts)} concepts: choose 1 to {MOST_SUBSETS} for {what}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
