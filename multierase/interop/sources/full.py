"""State dicts of a whole denoiser, or of a whole checkpoint, under either kind of names.

So write ESD of 2023, UCE of 2023, RECE, UnlearnCanvas, and SepME.
"""

from __future__ import annotations

from multierase.interop.naming import Names
from multierase.interop.reading import Found, Tensors
from multierase.interop.sources.peer import Peer, whole_weights

WRAPPED = ("state_dict", "model", "module")
ORIGINAL = "model.diffusion_model."
# No method trains these alone: whoever stores them stores everything.
WHOLE = ("norm", ".out.0.", "in_layers.0.", "out_layers.0.")


def matches(found: Found) -> bool:
    # All names in one text: a mark is a part of some of them.
    text = "\n".join(_weights(found))

    return any(mark in text for mark in WHOLE)


def read(found: Found, names: Names) -> Peer:
    """Read whole weights; most of them are the base's own."""
    tensors = _weights(found)
    original = any(name.startswith(ORIGINAL) for name in tensors)
    whose = "a whole checkpoint under original names" if original else "a whole state dict"

    return whole_weights(
        tensors, names, f"{whose}, as ESD of 2023, RECE, UnlearnCanvas and SepME write"
    )


def _weights(found: Found) -> Tensors:
    for group in WRAPPED:
        if group in found.groups:
            return found.groups[group]

    return found.tensors
