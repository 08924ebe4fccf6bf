"""Dense, exact differences of weights: for ComfyUI, Forge, A1111 and SD.Next."""

from __future__ import annotations

import torch

from multierase.increments.value import dense
from multierase.interop.naming import WEIGHT, Names
from multierase.interop.original import original_tensors
from multierase.interop.outgoing import Outgoing
from multierase.interop.targets.kohya import PREFIX

NATIVE = "diffusion_model."  # before the original names of a transformer


def tensors(outgoing: Outgoing) -> dict[str, torch.Tensor]:
    """Return ``.diff`` of every weight and ``.diff_b`` of every bias.

    Layers of a U-Net have kohya's names, which all of the interfaces read; those of a transformer
    their original names, in which queries, keys and values are one.
    """
    names, dtype = Names(outgoing.model), outgoing.dtype
    own = {name: dense(delta).to(dtype) for name, delta in outgoing.stored.items()}
    if names.component == "unet":
        layers = {}
        for name, tensor in own.items():
            layer, _, leaf = name.rpartition(".")
            layers[f"{PREFIX}{names.flat(layer + WEIGHT)}.{leaf}"] = tensor
    else:
        bare = {name.removeprefix(f"{names.component}."): own[name] for name in own}
        layers = {
            NATIVE + name: tensor for name, tensor in original_tensors(names.denoiser, bare).items()
        }

    found = {}
    for name, tensor in layers.items():
        layer, _, leaf = name.rpartition(".")
        found[f"{layer}.{'diff_b' if leaf == 'bias' else 'diff'}"] = tensor
    return found
