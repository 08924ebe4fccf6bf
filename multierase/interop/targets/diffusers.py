"""A LoRA folder for diffusers' ``load_lora_weights`` and PEFT's ``PeftModel.from_pretrained``."""

from __future__ import annotations

from typing import Any

import torch

from multierase.interop.naming import WEIGHT, Names
from multierase.interop.outgoing import Outgoing
from multierase.interop.targets.kohya import as_layers

LORA = "pytorch_lora_weights.safetensors"
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."


def layers(outgoing: Outgoing) -> dict[str, torch.Tensor]:
    """Return ``lora_A`` and ``lora_B`` of every layer, by its name within the denoiser."""
    names, dtype = Names(outgoing.model), outgoing.dtype
    found = {}
    for parameter, factors in outgoing.factors.items():
        layer = parameter.removeprefix(f"{names.component}.").removesuffix(WEIGHT)
        up, down = as_layers(factors, names.shapes[parameter])
        found[f"{layer}.lora_A.weight"] = down.to(dtype)
        found[f"{layer}.lora_B.weight"] = up.to(dtype)

    return found


def tensors(outgoing: Outgoing) -> dict[str, torch.Tensor]:
    """Return diffusers' file; without an alpha in it, the scale is 1."""
    (component,) = outgoing.model.components

    return {f"{component}.{name}": tensor for name, tensor in layers(outgoing).items()}


def adapter(outgoing: Outgoing) -> dict[str, torch.Tensor]:
    """Return PEFT's file of the denoiser alone."""
    return {PEFT_PREFIX + name: tensor for name, tensor in layers(outgoing).items()}


def adapter_config(outgoing: Outgoing) -> dict[str, Any]:
    """Return PEFT's configuration of it: alpha is the rank everywhere, so the scale is 1."""
    (component,) = outgoing.model.components
    ranks = {
        parameter.removeprefix(f"{component}.").removesuffix(WEIGHT): rank
        for parameter, rank in outgoing.ranks.items()
    }
    largest = max(ranks.values())
    others = {layer: rank for layer, rank in ranks.items() if rank != largest}

    return {
        "peft_type": "LORA",
        "base_model_name_or_path": outgoing.model.name,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "bias": "none",
        "inference_mode": True,
    }
