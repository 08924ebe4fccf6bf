"""What other tools call a model's parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from multierase.interop.original import has_halves_swapped, original_keys
from multierase.models.model import Model

WEIGHT = ".weight"
# What stands before a denoiser's parameter names in other tools' files.
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "")


@dataclass(frozen=True)
class Place:
    """What one of another tool's parameters is in a model.

    Args:
        parameters: names of the model's, whose rows are stacked in it.
        swapped: whether its halves stand in the other order.
    """

    parameters: tuple[str, ...]
    swapped: bool = False


class Names:
    """A model's parameters by the names that diffusers, the original code and kohya give them.

    Names with ``_`` in place of ``.`` are ambiguous, so every layer is listed and none is spelled.

    Args:
        model: its denoiser alone.
    """

    def __init__(self, model: Model):
        ((self.component, self.denoiser),) = model.components.items()
        self.shapes = {name: tuple(own.shape) for name, own in model.parameters().items()}

    @cached_property
    def original(self) -> dict[str, Place]:
        """By original name."""
        places = {}
        for theirs, ours in original_keys(self.denoiser).items():
            names = tuple(f"{self.component}.{name}" for name in ours)
            if all(name in self.shapes for name in names):  # buffers are not among them
                places[theirs] = Place(names, has_halves_swapped(self.denoiser, theirs))

        return places

    @cached_property
    def _flat(self) -> dict[str, Place]:
        """By a layer's name with ``_``, of diffusers and of the original: its weight."""
        layers = {}
        for theirs, place in self.original.items():
            if theirs.endswith(WEIGHT):
                layers[theirs.removesuffix(WEIGHT).replace(".", "_")] = place
        for name in self.shapes:
            if name.endswith(WEIGHT):
                layers[self.flat(name)] = Place((name,))

        return layers

    def flat(self, parameter: str) -> str:
        """Return the name of a weight's layer in diffusers with ``_``, as kohya's files have it."""
        layer = parameter.removesuffix(WEIGHT).removeprefix(f"{self.component}.")

        return layer.replace(".", "_")

    def of_key(self, key: str) -> Place | None:
        """Return what a parameter's name in diffusers or in the original code is here."""
        for prefix in PREFIXES:
            if not key.startswith(prefix):
                continue
            rest = key.removeprefix(prefix)
            if f"{self.component}.{rest}" in self.shapes:
                return Place((f"{self.component}.{rest}",))
            if rest in self.original:
                return self.original[rest]

        return None

    def of_layer(self, flat: str) -> Place | None:
        """Return the weight of a layer whose name is written with ``_``."""
        return self._flat.get(flat)

    def is_buffer(self, key: str) -> bool:
        """Tell whether a name is that of a tensor of the denoiser that is no parameter."""
        return any(key.removeprefix(prefix) in self._buffers for prefix in PREFIXES)

    @cached_property
    def _buffers(self) -> frozenset[str]:
        """The names of such tensors, in diffusers and in the original code."""
        names = set(self.denoiser.state_dict())
        own = {name for name in names if f"{self.component}.{name}" not in self.shapes}
        keys = original_keys(self.denoiser)

        return frozenset(own | {theirs for theirs, ours in keys.items() if own & set(ours)})

    def shape_of(self, place: Place) -> tuple[int, ...]:
        """Return the shape of the tensor in which these parameters' rows are stacked."""
        shapes = [self.shapes[name] for name in place.parameters]
        if len(shapes) == 1:
            return shapes[0]

        return sum(shape[0] for shape in shapes), *shapes[0][1:]

    def split(self, place: Place, stacked: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return a stacked tensor's rows by the model's parameters.

        Raises:
            ValueError: if it has another number of rows.
        """
        rows = [self.shapes[name][0] if self.shapes[name] else 1 for name in place.parameters]
        if len(stacked) != sum(rows):
            raise ValueError(
                f"{place.parameters[0]} and what stands beside it have {sum(rows)} rows, and the "
                f"file has {len(stacked)}"
            )
        if place.swapped:
            stacked = torch.cat([*reversed(stacked.chunk(2))])

        return dict(zip(place.parameters, stacked.split(rows), strict=True))
