"""Low-rank factors by layer, as every tool's LoRA has them, and dense differences beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from multierase.errors import WeightsFileError
from multierase.increments.value import Delta, Factors
from multierase.interop.naming import WEIGHT, Names, Place
from multierase.interop.reading import Found, Tensors
from multierase.interop.sources.peer import TEXT, coarser, require_shape

BIAS = ".bias"
# How the names of a layer's tensors end, by what they are.
ENDINGS = {
    "down": (
        ".lora_down.weight",
        ".lora_A.weight",
        ".lora_A.default.weight",
        ".lora.down.weight",
        "_lora.down.weight",
    ),
    "up": (
        ".lora_up.weight",
        ".lora_B.weight",
        ".lora_B.default.weight",
        ".lora.up.weight",
        "_lora.up.weight",
    ),
    "alpha": (".alpha",),
    "diff": (".diff",),
    "diff_b": (".diff_b",),
}
PROCESSOR = re.compile(r"(.+)\.processor\.(to_\w+)")  # of diffusers before 0.24
OUT = "to_out"


@dataclass
class Layer:
    """One layer's tensors.

    Args:
        down, up: ``(r, in)`` and ``(out, r)``, or a convolution's.
        alpha: what the product is multiplied by, over its rank.
        diff, diff_b: added to weight and bias as they are.
    """

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: torch.Tensor | None = None
    diff: torch.Tensor | None = None
    diff_b: torch.Tensor | None = None


@dataclass
class LowRank:
    """What a file adds to a model.

    Args:
        deltas: by parameter.
        unknown: names of layers that the model does not have.
        beside: tensors of text encoders, by their names.
        dtype: the coarsest of the factors.
    """

    deltas: dict[str, Delta] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    beside: dict[str, torch.Tensor] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32


def has_factors(found: Found) -> bool:
    """Tell whether a file has low-rank factors or differences by layer."""
    endings = tuple(ending for part in ENDINGS.values() for ending in part)

    return any(name.endswith(endings) for name in found.tensors)


def layers_of(tensors: Tensors) -> dict[str, Layer]:
    """Return a file's tensors by layer.

    Raises:
        WeightsFileError: for a tensor that is none of a layer's known parts, or is there twice.
    """
    layers: dict[str, Layer] = {}
    for name, tensor in tensors.items():
        layer, part = _split(name)
        known = layers.setdefault(layer, Layer())
        if getattr(known, part) is not None:
            raise WeightsFileError(f"{name!r:.120} is there twice, under two kinds of names")
        setattr(known, part, tensor.detach())

    return layers


def added(
    layers: Mapping[str, Layer],
    names: Names,
    place_of: Callable[[str], Place | None],
    scale_of: Callable[[str, int], float] | None = None,
) -> LowRank:
    """Return what these layers add to the model's weights.

    Args:
        place_of: says which weight a layer's is.
        scale_of: says by layer and rank what the product is multiplied by, where the file has no
            alpha; by default 1.

    Raises:
        WeightsFileError: for one factor without the other, or factors that do not fit the layer.
    """
    result = LowRank()
    for layer, parts in layers.items():
        if layer.startswith(TEXT):
            for part, tensor in vars(parts).items():
                if tensor is not None and part != "alpha":
                    result.beside[f"{layer}.{part}"] = tensor
            continue
        place = place_of(layer)
        if place is None:
            result.unknown.append(layer)
            continue
        for name, delta in _deltas(layer, parts, place, names, scale_of):
            result.deltas[name] = delta
        for tensor in (parts.up, parts.diff):
            if tensor is not None:
                result.dtype = coarser(result.dtype, tensor.dtype)

    return result


def layer_name(name: str) -> str:
    """Return a layer's name as it is today: attention processors had layers of their own."""
    processor = PROCESSOR.fullmatch(name)
    if processor is None:
        return name

    return f"{processor[1]}.{processor[2]}" + (".0" if processor[2] == OUT else "")


def _split(name: str) -> tuple[str, str]:
    for part, endings in ENDINGS.items():
        for ending in endings:
            if name.endswith(ending):
                return layer_name(name.removesuffix(ending)), part

    known = sorted(ending for part in ENDINGS.values() for ending in part)
    raise WeightsFileError(
        f"{name!r:.120} is no part of a low-rank file that is read; known are {known}"
    )


def _deltas(
    layer: str,
    parts: Layer,
    place: Place,
    names: Names,
    scale_of: Callable[[str, int], float] | None,
) -> list[tuple[str, Delta]]:
    deltas: list[tuple[str, Delta]] = []
    if parts.diff is not None:
        deltas += _dense(layer, parts.diff, place, names)
    if parts.diff_b is not None:
        biases = tuple(name.removesuffix(WEIGHT) + BIAS for name in place.parameters)
        if not set(biases) <= names.shapes.keys():
            raise WeightsFileError(f"{layer!r:.120} has a bias's difference, and no bias here")
        deltas += _dense(layer, parts.diff_b, Place(biases, place.swapped), names)
    if parts.down is None and parts.up is None:
        return deltas

    if parts.down is None or parts.up is None or parts.diff is not None:
        raise WeightsFileError(f"{layer!r:.120} has one factor without the other, or beside more")
    if min(parts.down.ndim, parts.up.ndim) < 2 or not parts.down.shape[0]:
        raise WeightsFileError(f"{layer!r:.120} has factors without a rank")
    rank = parts.down.shape[0]
    scale = scale_of(layer, rank) if scale_of is not None else 1.0
    if parts.alpha is not None:
        scale = _number(parts.alpha, layer) / rank
    return [*deltas, *_product(layer, parts.up, parts.down, scale, place, names)]


def _number(tensor: torch.Tensor, layer: str) -> float:
    if tensor.numel() != 1:
        raise WeightsFileError(f"{layer!r:.120}: its alpha is no number")

    return float(tensor)


def _dense(layer: str, tensor: torch.Tensor, place: Place, names: Names) -> list[tuple[str, Delta]]:
    require_shape(layer, tuple(tensor.shape), names.shape_of(place))

    return [(name, rows.float()) for name, rows in names.split(place, tensor).items()]


def _product(
    layer: str, up: torch.Tensor, down: torch.Tensor, scale: float, place: Place, names: Names
) -> list[tuple[str, Delta]]:
    """Return ``scale · up @ down`` of a matrix, or of a convolution."""
    shape = names.shape_of(place)
    inner = torch.Size(shape[1:]).numel()
    # A convolution's left factor has one pixel; its right one has all of them.
    there = (up.shape[0], torch.Size(up.shape[1:]).numel(), torch.Size(down.shape[1:]).numel())
    if len(shape) < 2 or there != (shape[0], down.shape[0], inner):
        raise WeightsFileError(
            f"{layer!r:.120} has factors of shapes {tuple(up.shape)} and {tuple(down.shape)}, and "
            f"this base's weight has {shape}: it was made for another model"
        )

    up, down = up.float().flatten(1) * scale, down.float().flatten(1).contiguous()
    deltas: list[tuple[str, Delta]] = []
    for name, rows in names.split(place, up).items():
        own = names.shapes[name]
        if len(own) == 2 and down.shape[0] < min(own):
            deltas.append((name, Factors(rows.contiguous(), down)))
        else:
            deltas.append((name, (rows @ down).reshape(own)))

    return deltas
