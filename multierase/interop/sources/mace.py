"""MACE's LoRA of one concept: it belongs to the U-Net that MACE refined for all concepts first.

(arXiv 2403.06135)
"""

from __future__ import annotations

from multierase.interop.naming import WEIGHT, Names
from multierase.interop.reading import Found
from multierase.interop.sources.low_rank import added, has_factors, layers_of
from multierase.interop.sources.peer import Peer

PROCESSOR = ".processor."
TRAINED = ("attn2.processor.to_k_lora.up.weight", "attn2.processor.to_v_lora.up.weight")
UP, DOWN = "_lora.up.weight", "_lora.down.weight"


def matches(found: Found) -> bool:
    """Tell MACE's from other files of diffusers 0.22: nothing but text's keys and values moves."""
    if not has_factors(found) or not all(PROCESSOR in name for name in found.tensors):
        return False

    for name, tensor in found.tensors.items():
        if name.endswith(DOWN) and tensor.shape[:1] != (1,):
            return False
        if name.endswith(UP) and not name.endswith(TRAINED) and tensor.any():
            return False
    return any(name.endswith(TRAINED) and tensor.any() for name, tensor in found.tensors.items())


def read(found: Found, names: Names) -> Peer:
    """Read the factors; their scale is 1."""
    result = added(layers_of(found.tensors), names, lambda layer: names.of_key(layer + WEIGHT))

    return Peer(
        about="MACE's LoRA of one concept, on the U-Net that it refined for all of them",
        deltas=result.deltas,
        unknown=result.unknown,
        beside=result.beside,
        dtype=result.dtype,
        relative=True,
    )
