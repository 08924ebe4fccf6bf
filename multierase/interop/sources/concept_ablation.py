"""Concept Ablation's files, and CUIG's: whole weights, although they are called deltas.

(arXiv 2303.13516; arXiv 2511.07970)
"""

from __future__ import annotations

import re

import torch

from multierase.interop.naming import Names
from multierase.interop.reading import PICKLE, Found
from multierase.interop.sources.peer import Peer, whole_weights

DIFFUSERS, ORIGINAL = "unet", "state_dict"
ATTENTION, EMBEDDING = re.compile(r"\.attn[12]\."), "embed"


def matches(found: Found) -> bool:
    if found.container != PICKLE:
        return False
    if DIFFUSERS in found.groups:
        return True

    names = [name for name in found.groups.get(ORIGINAL, {}) if name != EMBEDDING]
    return bool(names) and all(ATTENTION.search(name) for name in names)


def read(found: Found, names: Names) -> Peer:
    """Read whole weights; what other parts it holds is noted."""
    beside: dict[str, torch.Tensor] = {}
    for part, tensors in found.groups.items():
        if part not in (DIFFUSERS, ORIGINAL):
            prefix = f"{part}." if part else ""
            beside |= {f"{prefix}{name}": tensor for name, tensor in tensors.items()}

    denoiser = found.groups.get(DIFFUSERS) or found.groups[ORIGINAL]
    about = "whole weights under the name of a delta, as Concept Ablation and CUIG write them"
    return whole_weights(denoiser, names, about, beside=beside)
