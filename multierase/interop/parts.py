"""The parts of a pipeline that a file holds beside its denoiser: are they the base's own?"""

from __future__ import annotations

from typing import Any

import torch

from multierase.errors import WeightsFileError
from multierase.interop.original import whole_file
from multierase.interop.reading import Tensors
from multierase.interop.sources.peer import PICTURES, TEXT, coarser
from multierase.models.model import Model

TOWER = "text_model."  # in some versions' names of a text encoder, and not in others'
ADDED = (".up", ".diff", ".diff_b")  # of a LoRA's layers: zeros change nothing


def left_out(model: Model, beside: Tensors) -> dict[str, dict[str, int]]:
    """Count the tensors of other parts: the base's own, changed ones, and those without a like.

    Returns:
        By part ``same``, ``changed`` and ``not compared``; nothing for a file of the denoiser
        alone.

    Raises:
        WeightsFileError: for a text encoder that is not the base's own: it would be lost.
    """
    counts: dict[str, dict[str, int]] = {}
    changed: list[str] = []
    own = _own_parts(model) if beside else {}
    for name, tensor in beside.items():
        part, what = _part(name), _compared(name, tensor, own)
        counts.setdefault(part, {"same": 0, "changed": 0, "not compared": 0})[what] += 1
        if what == "changed" and part == "text encoder":
            changed.append(name)

    if changed:
        raise WeightsFileError(
            f"it changes the text encoder too, in {len(changed)} tensors, first {changed[0]!r:.120}"
            ": increments change the denoiser alone, and without that part it would not be the "
            "same erasure"
        )
    return counts


def _part(name: str) -> str:
    if name.startswith(TEXT):
        return "text encoder"

    return "vae" if name.startswith(PICTURES) else "others"


def _compared(name: str, tensor: torch.Tensor, own: Tensors) -> str:
    if name.endswith(ADDED):
        return "changed" if tensor.any() else "same"
    there = own.get(name.replace(TOWER, ""))
    if there is None or not tensor.is_floating_point() or there.shape != tensor.shape:
        return "changed" if name.endswith("embed") else "not compared"

    dtype = coarser(there.dtype, tensor.dtype)
    same = torch.equal(there.detach().cpu().to(dtype), tensor.cpu().to(dtype))
    return "same" if same else "changed"


def _own_parts(model: Model) -> dict[str, torch.Tensor]:
    """Return the base's own parts, under original names and those of a pipeline's folder."""
    found: dict[str, Any] = dict(whole_file(model.pipeline))
    for part, module in model.pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            found |= {f"{part}.{name}": value for name, value in module.state_dict().items()}

    return {name.replace(TOWER, ""): value for name, value in found.items()}
