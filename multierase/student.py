"""The student: the base's own U-Net, with other values for the weights of a scope."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from diffusers import UNet2DConditionModel

from multierase.base import Base
from multierase.increments import Factors, reads_text, touched_parameters


class Student:
    """The base with float32 increments on the weights of a scope: variables, and the weights they give.

    Args:
        base: the frozen model; there is no second U-Net.
        scope: which weights: see ``multierase.increments.SCOPES``.
        basis: ``B`` ``(d, r)``; keys and values then change by ``A Bᵀ`` alone, with ``A`` to train. ``None`` trains
            them freely. Other weights of the scope always train freely.
    """

    def __init__(self, base: Base, scope: str, basis: torch.Tensor | None):
        self.unet = base.unet
        parameters = dict(base.unet.named_parameters())
        self.frozen = {name: parameters[name] for name in touched_parameters(base.unet, scope)}
        self.variables, self.down = {}, {}
        down = None if basis is None else basis.T.contiguous().to(base.device)
        for name, weight in self.frozen.items():
            shape = weight.shape
            if basis is not None and reads_text(name):
                self.down[name] = down
                shape = (weight.shape[0], basis.shape[1])
            self.variables[name] = torch.zeros(shape, device=base.device, requires_grad=True)

    @property
    def reads_text_alone(self) -> bool:
        """Does it change keys and values alone, so that several students can share one batch?"""
        return all(map(reads_text, self.variables))

    def moved(self, name: str, text: torch.Tensor) -> torch.Tensor:
        """``Δ e`` ``(b, l, out)`` of keys or values for text embeddings ``(b, l, d)``, without making ``Δ``."""
        return (text @ self.down[name].T if name in self.down else text) @ self.variables[name].T

    def delta(self, name: str) -> torch.Tensor:
        return self.variables[name] @ self.down[name] if name in self.down else self.variables[name]

    def deltas(self) -> dict[str, torch.Tensor | Factors]:
        """What it has learned, on the CPU; keys and values share one ``down``."""
        detached = {name: variable.detach().cpu().clone() for name, variable in self.variables.items()}
        down = next((down.cpu() for down in self.down.values()), None)
        return {name: Factors(value, down) if name in self.down else value for name, value in detached.items()}


def together(students: Sequence[Student]) -> dict[str, torch.Tensor]:
    """``cast(W0 + Σ Δ_i)`` of one scope, differentiable in the students' variables: summed in float32, because a small
    step on a bfloat16 weight rounds to nothing."""
    first = students[0]
    return {
        name: sum((student.delta(name) for student in students), weight.float()).to(weight.dtype)
        for name, weight in first.frozen.items()
    }


@contextlib.contextmanager
def side_by_side(students: Sequence[Student], sizes: Sequence[int]) -> Iterator[None]:
    """Predictions of one batch in which every student has its own samples, ``sizes`` of them in turn.

    Keys and values are all that differs by sample, and they are ``W e + Δ e``: ``Δ e`` is added in float32 to what the
    frozen layer says, whatever its dtype. Students that change other weights cannot share a batch.
    """

    def adding(name: str):
        def add(module, inputs, output):
            texts = inputs[0].float().split(list(sizes))
            moved = [student.moved(name, text) for student, text in zip(students, texts, strict=True)]
            return output + torch.cat(moved).to(output.dtype)

        return add

    unet = students[0].unet
    hooks = [
        unet.get_submodule(name.removesuffix(".weight")).register_forward_hook(adding(name))
        for name in students[0].variables
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def recomputed(unet: UNet2DConditionModel) -> Iterator[None]:
    """Gradient checkpointing: a forward pass keeps the blocks' inputs alone; the gradients compute the rest again."""
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()
