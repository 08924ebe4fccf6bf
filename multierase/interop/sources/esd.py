"""ESD's files that say that they are: its header, and the pickle of its other implementation.

Its files without a header are UCE's to the letter; see ``bare.py``. (arXiv 2303.07345)
"""

from __future__ import annotations

import torch

from multierase.interop.naming import Names
from multierase.interop.reading import PICKLE, Found
from multierase.interop.sources.peer import Peer, said_of, whole_weights

FORMAT, HEADER = "format", "erasing-esd"
LEAVES = {"weight", "bias"}


def matches(found: Found) -> bool:
    return str(found.metadata.get(FORMAT, "")).startswith(HEADER) or _is_by_layer(found)


def read(found: Found, names: Names) -> Peer:
    """Read whole weights, and what the header says of the training."""
    if _is_by_layer(found):
        tensors: dict[str, torch.Tensor] = {}
        for layer, leaves in found.groups.items():
            tensors |= {f"{layer}.{leaf}": tensor for leaf, tensor in leaves.items()}
        # Lists of concepts are trained into one such file.
        return whole_weights(tensors, names, "ESD's weights by layer", method="esd")

    said = said_of(found)
    erased = said.get("erase_concept", "")
    return whole_weights(
        found.tensors,
        names,
        f"ESD's weights, {said[FORMAT]}",
        method="esd",
        said=said,
        concepts=(erased,) if erased else (),
    )


def _is_by_layer(found: Found) -> bool:
    """Tell whether it is a pickle of layers, each with its weight and perhaps its bias."""
    if found.container != PICKLE or not found.groups or "" in found.groups:
        return False

    return all("." in layer and set(leaves) <= LEAVES for layer, leaves in found.groups.items())
