"""Pipelines' folders: whole weights. MACE's final model is one."""

from __future__ import annotations

import torch

from multierase.errors import WeightsFileError
from multierase.interop.naming import Names
from multierase.interop.reading import FOLDER, Found
from multierase.interop.sources.peer import Peer, whole_weights

CLASS = "_class_name"


def matches(found: Found) -> bool:
    return found.container == FOLDER and CLASS in found.metadata


def read(found: Found, names: Names) -> Peer:
    """Read the denoiser, and note the other parts."""
    if "" in found.groups:
        return whole_weights(found.tensors, names, f"a folder of a {_kind(found)}, whole weights")

    if names.component not in found.groups:
        raise WeightsFileError(
            f"{found.path} is the folder of a {_kind(found)}, with the parts "
            f"{sorted(found.groups)}, and this base's part {names.component!r} is not among them"
        )
    beside: dict[str, torch.Tensor] = {}
    for part, tensors in found.groups.items():
        if part != names.component:
            beside |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}

    return whole_weights(
        found.groups[names.component],
        names,
        f"the folder of a {_kind(found)}, whole weights",
        beside=beside,
    )


def _kind(found: Found) -> str:
    return str(found.metadata[CLASS])[:60]
