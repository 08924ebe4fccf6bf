"""Text towers and VAE that are on the GPU only while they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import cpu_offload_with_hook
from torch import nn

from multierase.models.model import Model


def offload(model: Model, device: torch.device) -> None:
    """Move the denoiser to ``device`` for good, and every other part when it is called.

    The others leave together when the denoiser is called next: a training, between two batches of
    prompts that are new, has the denoiser's memory alone.
    """
    staying, hooks = list(model.components.values()), []
    for part in model.pipeline.components.values():
        if isinstance(part, nn.Module) and not any(part is each for each in staying):
            _, hook = cpu_offload_with_hook(part, device)
            hooks.append((part, hook))

    for denoiser in staying:
        denoiser.to(device)
        denoiser.register_forward_pre_hook(lambda *_: _leave(hooks))


def _leave(hooks: Sequence[tuple[nn.Module, Any]]) -> None:
    for part, hook in hooks:
        if next(part.parameters()).device.type != "cpu":
            hook.offload()
