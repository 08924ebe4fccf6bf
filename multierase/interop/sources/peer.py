"""What a file of another tool's holds, in the model's own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from multierase.errors import WeightsFileError
from multierase.files import plain
from multierase.increments.value import Delta
from multierase.interop.naming import Names, Place
from multierase.interop.reading import Found, Tensors

UNKNOWN = "unknown"  # a method that the file does not say
# Parts of a pipeline that stand beside the denoiser, by what their names begin with.
TEXT = ("cond_stage_model.", "conditioner.", "text_encoder", "text_model.", "lora_te", "embed")
PICTURES = ("first_stage_model.", "vae.")
OTHERS = ("safety_checker.", "image_encoder.", "feature_extractor.")
# What a training leaves in a checkpoint: averaged copies, and the noise schedule's numbers.
AVERAGES = "model_ema."
MOST_SAID, LONGEST_SAID = 100, 2000


class Absolute:
    """Whole weights, each read when it is asked for.

    Args:
        tensors: by the file's names.
        places: by the same names what they are in the model.
        names: the model's.
    """

    def __init__(self, tensors: Tensors, places: Mapping[str, Place], names: Names):
        self._tensors, self._places, self._names = tensors, places, names

    @property
    def parameters(self) -> list[str]:
        """The model's parameters that are there, sorted."""
        return sorted({name for place in self._places.values() for name in place.parameters})

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield parameters with their values.

        Raises:
            WeightsFileError: for a tensor of another shape.
        """
        for key, place in self._places.items():
            tensor = self._tensors[key]
            require_shape(key, tuple(tensor.shape), self._names.shape_of(place))
            yield from self._names.split(place, tensor.detach()).items()


@dataclass(frozen=True)
class Peer:
    """What a file holds.

    Args:
        about: what it is, in words, for the history.
        weights: whole weights of the denoiser, if it holds such.
        deltas: by parameter what it adds to the weights, if it holds that.
        unknown: names that are no layer's of the model.
        beside: by name the tensors of other parts of a pipeline: ``text_encoder.…``, ``vae.…``, and
            those of the original code.
        method: a name in ``multierase.methods.METHODS``, if the file says it.
        said: what it says of itself, as JSON values.
        concepts: names that it says it erases.
        relative: whether ``deltas`` belong to another model than the base: one that was changed for
            all of a set's concepts first.
    """

    about: str
    weights: Absolute | None = None
    deltas: Mapping[str, Delta] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    beside: Tensors = field(default_factory=dict)
    method: str = UNKNOWN
    said: Mapping[str, Any] = field(default_factory=dict)
    concepts: Sequence[str] = ()
    relative: bool = False
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Sorted:
    """The names of a file: the denoiser's, those of other parts, and the rest."""

    places: Mapping[str, Place]
    beside: Sequence[str]
    unknown: Sequence[str]


def sorted_out(keys: Sequence[str], names: Names) -> Sorted:
    """Sort the names of whole weights; copies and schedules of a training are nobody's."""
    places, beside, unknown = {}, [], []
    for key in keys:
        place = names.of_key(key)
        if place is not None:
            places[key] = place
        elif key.startswith((*TEXT, *PICTURES, *OTHERS)):
            beside.append(key)
        elif not (key.startswith(AVERAGES) or "." not in key or names.is_buffer(key)):
            unknown.append(key)

    return Sorted(places, beside, unknown)


def whole_weights(tensors: Tensors, names: Names, about: str, **more: Any) -> Peer:
    """Return what a mapping of whole weights holds."""
    found = sorted_out(list(tensors), names)
    beside = {key: tensors[key] for key in found.beside}

    return Peer(
        about=about,
        weights=Absolute(tensors, found.places, names),
        unknown=found.unknown,
        beside={**beside, **more.pop("beside", {})},
        **more,
    )


def require_shape(key: str, there: tuple[int, ...], here: tuple[int, ...]) -> None:
    """Raise ``WeightsFileError`` for a tensor of another shape than the model's."""
    if there != here:
        raise WeightsFileError(
            f"{key!r:.120} has shape {there}, and this base's has {here}: it was made for a model "
            "of another size"
        )


def coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """Return the dtype of two that rounds more."""
    return a if torch.finfo(a).eps >= torch.finfo(b).eps else b


def said_of(found: Found) -> dict[str, str]:
    """Return what a header says, as texts of a size that can be kept."""
    listed = sorted(found.metadata.items())[:MOST_SAID]

    return {plain(key)[:100]: plain(value)[:LONGEST_SAID] for key, value in listed}
