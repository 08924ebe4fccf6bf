"""Whole weights of some layers under their names alone: ESD, UCE, SPEED and CUIG write the same.

What tells them apart is the container and which layers there are, and that not always. (ESD: arXiv
2303.07345; UCE: 2308.14761; SPEED: 2503.07392; CUIG: 2511.07970)
"""

from __future__ import annotations

from multierase.interop.naming import PREFIXES, Names
from multierase.interop.reading import PICKLE, Found
from multierase.interop.sources.peer import Peer, whole_weights

LEAVES = (".weight", ".bias")
READERS = ("attn2.to_k.weight", "attn2.to_v.weight")
FIRST_LAYERS = ("context_embedder.weight", "text_embedder.linear_1.weight")
BLOCKS = (
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "input_blocks.",
    "middle_block.",
    "output_blocks.",
    "transformer_blocks.",
    "single_transformer_blocks.",
    "double_blocks.",
    "single_blocks.",
    "joint_blocks.",
    "conv_in.",
    "conv_out.",
    "time_embedding.",
    "context_embedder.",
    "time_text_embed.",
)


def matches(found: Found) -> bool:
    return any(_rest(name).startswith(BLOCKS) for name in found.tensors)


def read(found: Found, names: Names) -> Peer:
    """Read whole weights, and say who writes such."""
    return whole_weights(found.tensors, names, f"whole weights of {_layers(found)}")


def _layers(found: Found) -> str:
    """Return in words which layers there are, and who writes just these."""
    keys = list(found.tensors)
    if all(key.endswith(READERS) for key in keys):
        values = sum(key.endswith(READERS[1]) for key in keys)
        if values in (0, len(keys)):
            which = "values" if values else "keys"
            return f"the text's {which} alone, as SPEED writes them"
        if found.container == PICKLE:
            return "the text's keys and values in a pickle, as SPEED and CUIG write them"
        return "the text's keys and values, as ESD and UCE write them"
    if all(key.endswith(FIRST_LAYERS) for key in keys):
        return "the first layers of the text, as UCE writes them"

    return "some layers, as ESD and CUIG write them"


def _rest(name: str) -> str:
    for prefix in PREFIXES:
        if prefix and name.startswith(prefix):
            return name.removeprefix(prefix)

    return name
