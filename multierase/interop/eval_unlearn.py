"""The technique by which eval-unlearn's runner makes pictures with a library's concepts erased.

eval-unlearn finds it by the entry point ``multierase`` of
the group ``eval_unlearn.techniques``. Nothing of that package is imported here.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from multierase.errors import UsageError, suggest
from multierase.increments.library import Library
from multierase.pictures import to_picture
from multierase.sampling import SamplingSettings
from multierase.workspace import Workspace

if TYPE_CHECKING:
    from PIL import Image

SAMPLING = {
    "num_inference_steps": "inference_steps",  # as diffusers and their own techniques call it
    "guidance_scale": "guidance_scale",
    "batch_size": "batch_size",
}
"""The sampling settings, by the names that a configuration gives them."""
WORKSPACE = frozenset(inspect.signature(Workspace).parameters) - {"library", "base", "create"}
OWN = ("base", "library", "erase", "erase_concept", "seed")


class Technique:
    """A base model with concepts of a library erased, with the bits of ``multierase generate``.

    Args:
        base, library: as ``Workspace`` takes them.
        erase: the concepts that are erased: a list, or strengths by concept. An empty list is the
            base itself.
        erase_concept: the name of one concept, which the runner states in its reports. Without
            ``erase`` it is what is erased; beside it, one of these.
        seed: of the first picture of a run whose runner gives no seed, as its command line does;
            every further picture has the next one.
        more: sampling settings ``num_inference_steps``, ``guidance_scale`` and ``batch_size``, as
            ``SamplingSettings`` has them, and what ``Workspace`` takes besides, such as ``device``.

    Raises:
        UsageError: for an unknown setting, or concepts that are not well given.
        UnknownConcept: for a concept that the library does not hold.
        FileNotFoundError: if there is no such library, or no such base.
        ValueError: for a setting that is out of range, or an increment of another base.
    """

    def __init__(
        self,
        base: str = "emoji",
        library: str | None = None,
        erase: Sequence[str] | Mapping[str, float] | None = None,
        erase_concept: str | None = None,
        seed: int = 0,
        **more: Any,
    ):
        _require_known(more, [*OWN, *SAMPLING, *WORKSPACE])
        strengths = _strengths(erase, erase_concept)
        if strengths and library is None:
            raise UsageError(
                f"to erase {sorted(strengths)}, give library, the folder of their increments"
            )
        if library is not None:
            Library(library).require(strengths)  # before the base is loaded

        self.settings = _changed(SamplingSettings(), more)
        self._seed = seed
        composed = {name: value for name, value in more.items() if name in WORKSPACE}
        self.workspace = Workspace(library, base, **composed)
        self.workspace.set(strengths)

    def generate(
        self, prompts: Sequence[str], seed: int | None = None, **more: Any
    ) -> list[Image.Image]:
        """Make one picture for each prompt.

        Args:
            seed: of the first prompt; every further one has the next. By default seeds count on
                from picture to picture, so that no two batches have the same noise.
            more: sampling settings for this call, by the names that the configuration has.

        Raises:
            UsageError: for an unknown setting.
            ValueError: for no prompt, or a setting that is out of range.
        """
        _require_known(more, SAMPLING)
        settings = _changed(self.settings, more)

        first = self._seed if seed is None else seed
        seeds = list(range(first, first + len(prompts)))
        pictures = self.workspace.generate(prompts, seeds, settings)
        if seed is None:
            self._seed += len(prompts)

        return [to_picture(picture) for picture in pictures]


def _require_known(given: Mapping[str, Any], known: Collection[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(
            f"unknown setting {unknown[0]!r}{suggest(unknown[0], known)}; settings: {sorted(known)}"
        )


def _changed(settings: SamplingSettings, given: Mapping[str, Any]) -> SamplingSettings:
    chosen = {SAMPLING[name]: value for name, value in given.items() if name in SAMPLING}

    return replace(settings, **chosen)


def _strengths(
    erase: Sequence[str] | Mapping[str, float] | None, concept: str | None
) -> dict[str, float]:
    """Return what is erased, by concept the strength."""
    if concept is not None and not isinstance(concept, str):
        raise UsageError(
            f"erase_concept is {concept!r}: give the name of one concept, and several under erase"
        )
    if erase is None:
        if concept is None:
            raise UsageError(
                "give erase, a list of concepts, or erase_concept, the name of one; an empty list "
                "is the base itself"
            )
        return {concept: 1.0}

    strengths = _of_given(erase)
    if concept is not None and concept not in strengths:
        raise UsageError(
            f"erase_concept is {concept!r}, which reports would state, but erase has "
            f"{sorted(strengths)}: give one of these"
        )
    return strengths


def _of_given(erase: object) -> dict[str, float]:
    names: list[Any] = list(erase) if isinstance(erase, list | tuple | Mapping) else [None]
    strengths = list(erase.values()) if isinstance(erase, Mapping) else [1.0] * len(names)
    fine = all(isinstance(name, str) for name in names)
    if not fine or not all(isinstance(strength, int | float) for strength in strengths):
        raise UsageError(
            f"erase is {erase!r}: give a list of concepts, or by concept a strength, a number"
        )

    return dict(zip(names, strengths, strict=True))
