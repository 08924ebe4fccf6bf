"""Low-rank files as kohya's scripts write them: for ComfyUI, Forge, A1111 and diffusers."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from multierase.increments.value import Factors
from multierase.interop.naming import Names
from multierase.interop.outgoing import Outgoing

PREFIX = "lora_unet_"


def tensors(outgoing: Outgoing) -> dict[str, torch.Tensor]:
    """Return ``lora_down``, ``lora_up`` and ``alpha`` of every layer.

    Alpha is the rank, so the scale is 1. All layers have one rank, some by zeros: diffusers 0.42
    scales a layer wrongly whose alpha is not that of most others.
    """
    names, dtype = Names(outgoing.model), outgoing.dtype
    most = max(outgoing.ranks.values())
    found = {}
    for parameter, factors in outgoing.factors.items():
        layer = PREFIX + names.flat(parameter)
        up, down = as_layers(_padded(factors, most), names.shapes[parameter])
        found[f"{layer}.lora_down.weight"] = down.to(dtype)
        found[f"{layer}.lora_up.weight"] = up.to(dtype)
        found[f"{layer}.alpha"] = torch.tensor(float(len(down)), dtype=dtype)

    return found


def _padded(factors: Factors, rank: int) -> Factors:
    """Return the same product with more columns and rows, which are zero."""
    lacking = rank - factors.up.shape[1]

    return Factors(pad(factors.up, (0, lacking)), pad(factors.down, (0, 0, 0, lacking)))


def as_layers(factors: Factors, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``up`` and ``down`` as the layers' weights: a convolution's are convolutions.

    Args:
        shape: of the weight that they are added to.
    """
    if len(shape) == 2:
        return factors.up, factors.down

    ones = (1,) * (len(shape) - 2)
    rank = factors.up.shape[1]
    return factors.up.reshape(shape[0], rank, *ones), factors.down.reshape(rank, *shape[1:])
