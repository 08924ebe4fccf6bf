"""A workspace: a model, a library and a keep-list, and the one place that decides the default.

The command line, Python, the demonstration and the evaluation all open one. So the same request
gives the same bits everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from multierase.composer import Composer, Solve
from multierase.errors import MultieraseError, UsageError
from multierase.generate import generate
from multierase.increments.library import Library
from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, as_concepts, method_named
from multierase.models.loading import load_base
from multierase.models.model import Model
from multierase.models.weights import require_free
from multierase.prompts.concepts import Concept
from multierase.prompts.lists import TaggedPrompt, not_about, unknown_to
from multierase.sampling import SamplingSettings
from multierase.separation.crosstalk import Entangled, entangled_in
from multierase.separation.keep_list import KeepList
from multierase.training.beside import kept_beside
from multierase.training.certificate import certify, examined
from multierase.training.estimate import Estimate, estimate
from multierase.training.plan import Planner
from multierase.training.settings import EraseSettings
from multierase.training.watching import Watch

if TYPE_CHECKING:
    from multierase.interop.exporting import ExportSettings
    from multierase.interop.reading import Found
    from multierase.interop.sources import ImportSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """An increment that was made, and the file that it is in."""

    increment: Increment
    path: Path

    @property
    def concept(self) -> str:
        """The concept's name."""
        return self.increment.concept


class Workspace:
    """A base model, a library of increments, and how they are composed.

    The model is loaded when it is first needed. Increments are put together by the joint solve
    where there is a keep-list: the dictionary that they were trained beside, the base's own list,
    or a given one. Else they are summed.

    Args:
        library: folder of increments, or a ``Library``; ``None`` for a base alone.
        base: source of the base model, as for ``load_base``, or a loaded ``Model``.
        create: make the library's folder if it is not there.
        device, dtype, base_config, t5_length, resolution, offload: see ``load_base``.
        solve: ``sum`` or ``joint``, in place of the default.
        keep: prompts to keep, beside the base's own list.
        keep_weight: see ``Composer``.

    Raises:
        FileNotFoundError: if there is no such folder, unless ``create``.
    """

    def __init__(
        self,
        library: str | Path | Library | None = None,
        base: str | Path | Model = "emoji",
        *,
        create: bool = False,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        base_config: str | None = None,
        t5_length: int | None = None,
        resolution: int | None = None,
        offload: bool = False,
        solve: Solve | None = None,
        keep: Sequence[TaggedPrompt | str] = (),
        keep_weight: float = 3.0,
    ):
        if isinstance(library, str | Path):
            library = Library(library, create=create)
        self._library, self._base = library, base
        self._loading: dict[str, Any] = {"device": device, "dtype": dtype, "config": base_config}
        self._loading |= {"t5_length": t5_length, "resolution": resolution, "offload": offload}
        self._solve, self._keep_weight = solve, keep_weight
        self.keep = [TaggedPrompt(one) if isinstance(one, str) else one for one in keep]

    @cached_property
    def model(self) -> Model:
        """The base."""
        if isinstance(self._base, Model):
            return self._base

        return load_base(self._base, **self._loading)

    @property
    def library(self) -> Library:
        """The increments. Raises ``UsageError`` for a workspace without a library."""
        if self._library is None:
            raise UsageError("give a library, the folder of increments (--library)")

        return self._library

    @cached_property
    def keep_list(self) -> KeepList | None:
        """The base's own prompts, the given ones, and the dictionary; ``None`` if there are none.

        The dictionary has the forms that the library's increments were trained beside.
        """
        listed = [*self.model.known_prompts, *self.keep]
        dictionaries = kept_beside(self.model, self._library) if self._library is not None else []
        if not listed and not dictionaries and self._solve != "joint":
            return None
        if self._library is None:
            return KeepList.of(self.model, listed, [])

        keep = KeepList.cached(self._library.folder, self.model, listed, self._library)
        return keep.beside(dictionaries)

    @cached_property
    def composer(self) -> Composer:
        """The composer of this model, with the default solve applied."""
        increments: Mapping[str, Increment] = self._library if self._library is not None else {}

        return Composer(
            self.model,
            increments,
            solve=self._solve,
            keep=None if self._solve == "sum" else self.keep_list,
            keep_weight=self._keep_weight,
        )

    def train(
        self,
        *concepts: Concept | str,
        settings: EraseSettings | None = None,
        method: str = "esd",
        simultaneous: bool = False,
        beside: Sequence[str] = (),
        overwrite: bool = False,
        resume: bool = False,
        progress: bool = False,
        watch: Watch | None = None,
    ) -> list[Trained | Refusal]:
        """Make an increment for each concept, and save each as soon as it is trained.

        Everything that can be checked is checked before the first step. An interrupted run can be
        resumed: its checkpoint stays in the library's folder until its increments are saved.

        Args:
            concepts: ``Concept`` objects, or their names.
            settings: see ``EraseSettings``.
            method: a name in ``multierase.methods.METHODS``.
            simultaneous: train each under the increments of all.
            beside: names of concepts that other runs erase; siblings are sought among them, too.
            overwrite: replace increments of these names that are there already.
            resume: go on where an interrupted run stopped.
            progress: show a progress bar on stderr.
            watch: told of each step; the run ends early if it says so.

        Returns:
            A ``Trained`` or a ``Refusal`` for each concept, in their order.

        Raises:
            AlreadyThere: for a concept that is in the library already, unless ``overwrite``.
            Cancelled: if ``watch`` has ended the run; ``resume`` goes on from there.
            ModelHeld: if concepts are erased on the model now.
            UsageError, ValueError, WriteError: for an unknown method or scope, settings out of
                range, or a folder that cannot be written.
        """
        named = as_concepts(concepts)
        self.library.check_targets([concept.name for concept in named], overwrite=overwrite)
        producer = method_named(method)
        self._warn_of_unknown(named)

        # Checkpoints lie beside the files they become, so that --resume finds them.
        order = Order(
            concepts=named,
            settings=settings or EraseSettings(),
            keep=self.keep,
            simultaneous=simultaneous,
            checkpoints=self.library.folder,
            resume=resume,
            progress=progress,
            library=sorted({*self.library, *beside}),
            cache=self.library.folder,
            watch=watch,
        )
        done: list[Trained | Refusal] = []
        try:
            for result in producer.produce(self.model, order):
                if isinstance(result, Increment):
                    done.append(Trained(result, self.library.save(result, overwrite=overwrite)))
                else:
                    logger.warning("refused %r: %s", result.concept, result.reason)
                    done.append(result)
        finally:
            if done:
                self._forget()

        places = {concept.name: place for place, concept in enumerate(named)}
        return sorted(done, key=lambda one: places[one.concept])

    def estimate(self, settings: EraseSettings | None = None, method: str = "esd") -> Estimate:
        """Estimate what ``train`` takes for one concept; see ``multierase.training.estimate``."""
        asks = method_named(method).asks

        return estimate(self.model, settings or EraseSettings(), asks=asks)

    def sentences(self, concept: str, settings: EraseSettings | None = None) -> Concept:
        """Return a concept, given by its name, with the sentences that ``train`` would use.

        Raises:
            ConceptRefused: if the base does not draw it.
        """
        planner = Planner(self.model, settings or EraseSettings(), library=sorted(self.library))

        return planner.sentences.of(Concept(concept)).concept

    def import_file(
        self,
        source: str | Path | Found,
        concept: Concept | str,
        settings: ImportSettings | None = None,
        *,
        overwrite: bool = False,
        progress: bool = False,
    ) -> Trained:
        """Save an increment of another tool's file; see ``interop.importing.import_file``."""
        from multierase.interop.importing import import_file

        (concept,) = as_concepts([concept])
        self.library.check_targets([concept.name], overwrite=overwrite)
        increment = import_file(
            self.model,
            source,
            concept,
            settings,
            keep=not_about(self.keep, concept.name),
            library=sorted(self.library),
            folder=self.library.folder,
            progress=progress,
        )

        path = self.library.save(increment, overwrite=overwrite)
        self._forget()
        return Trained(increment, path)

    @property
    def erased(self) -> Mapping[str, float]:
        """The concepts that are erased now, with their strengths."""
        return self.composer.erased

    def erase(self, *concepts: str, strength: float = 1.0) -> None:
        """Apply the increments of these concepts; see ``Composer.erase``."""
        self.composer.erase(*concepts, strength=strength)

    def restore(self, *concepts: str) -> None:
        """Remove the increments of these concepts; see ``Composer.restore``."""
        self.composer.restore(*concepts)

    def restore_all(self) -> None:
        """Remove every increment: the base, bit for bit."""
        self.composer.restore_all()

    def set(self, erased: Mapping[str, float]) -> None:
        """Erase exactly these concepts, at these strengths."""
        self.composer.set(erased)

    def erasing(self, *concepts: str, strength: float = 1.0) -> AbstractContextManager[Composer]:
        """Erase more concepts inside a ``with`` block; return to the previous state after it."""
        return self.composer.erasing(*concepts, strength=strength)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: SamplingSettings | None = None,
        *,
        progress: bool = False,
    ) -> torch.Tensor:
        """Make pictures of the model as it is composed now; see ``multierase.generate``."""
        return generate(self.model, prompts, seeds, settings, progress=progress)

    def export(
        self,
        out: str | Path,
        to: str = "pipeline",
        settings: ExportSettings | None = None,
        *,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Write what is erased now for other tools; see ``multierase.interop.exporting.export``."""
        from multierase.interop.exporting import export

        return export(self.composer, out, to, settings, overwrite=overwrite)

    def entangled(self, concepts: Sequence[str] | None = None) -> list[Entangled]:
        """Return pairs of concepts: erasing the first also changes the second.

        Args:
            concepts: only pairs with one of these; all by default.
        """
        # The composer at hand may hold the model; a new one needs no keep-list for this.
        composer = self.__dict__.get("composer") or Composer(self.model, self.library, solve="sum")
        return entangled_in(composer.crosstalk(), self.library, concepts)

    def certify(self, *concepts: str) -> dict[str, Any]:
        """Say what erasing exactly these concepts does to each concept of the library.

        No picture is made and no judge is asked: unseen sentences about each concept, and prompts
        that are to stay, are asked of the base and of the composed model. Afterwards the model is
        composed as it was.

        Returns:
            JSON values; see ``multierase.training.certificate.certify``.

        Raises:
            UnknownConcept: for a concept that is not in the library.
            UsageError: if no increment of the library says which sentences to ask.
            ValueError: for a certificate that is damaged.
            ModelHeld: if another composer has concepts erased on the model.
        """
        for concept in concepts:
            self.library.header(concept)
        asked = self.library.questions()
        if not asked:
            raise UsageError(
                "no increment of this library has a certificate: those that are erased with this "
                "version have one"
            )

        before = dict(self.erased)
        try:
            self.restore_all()
            require_free(self.model)  # of others' increments too, or it is no base
            questions = examined(self.model, asked)
            self.set(dict.fromkeys(concepts, 1.0))
            return certify(self.model, questions, concepts)
        finally:
            self.set(before)

    def validate(self) -> Iterator[tuple[Path, str | None]]:
        """Check every file of the library: whole, made for this model, and fit to be composed.

        Yields:
            Each file, with what is wrong with it, or ``None``.

        Raises:
            ModelHeld: if concepts are erased on the model now.
        """
        require_free(self.model)
        yield from self.library.problems().items()

        # Each alone, and jointly with the rest of the library as what is kept.
        solves: tuple[Solve, ...] = ("sum", "joint")
        composers = [Composer(self.model, self.library, solve=solve) for solve in solves]
        for name, header in self.library.headers().items():
            yield header.path, _first_problem(composers, name)

    def _warn_of_unknown(self, concepts: Sequence[Concept]) -> None:
        known = self.model.known_prompts
        for concept in concepts:
            warning = unknown_to(known, concept.name) if concept.is_bare else None
            if warning is not None:
                logger.warning("%s", warning)

    def _forget(self) -> None:
        """Make composer and keep-list again at their next use, with the new increments."""
        for name in ("composer", "keep_list"):
            self.__dict__.pop(name, None)


def _first_problem(composers: Sequence[Composer], name: str) -> str | None:
    for composer in composers:
        try:
            composer.check({name: 1.0})
        except (MultieraseError, ValueError, RuntimeError) as error:
            return str(error)

    return None
