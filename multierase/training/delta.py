"""The student: the base's own denoiser, with other values for the weights of a scope."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from multierase.increments.layout import DOWN
from multierase.increments.value import Delta, Factors
from multierase.models.conditioning import Conditioning
from multierase.models.model import Model
from multierase.separation.directions import Directions


class Student:
    """Float32 increments on some weights of a frozen model: the variables of an erasure.

    Args:
        model: the frozen base; there is no second denoiser.
        parameters: names of the weights that may change.
        readers: those of them that read one stream alone, with the stream.
        directions: by stream ``B`` ``(d, r)``. The stream's readers change by ``A Bᵀ`` alone, with
            ``A`` to train. All other weights train freely.
        rank: of the two factors that any other matrix trains; 0 to train all its numbers.
        seed: of the factors' start.

    Attributes:
        frozen: the base's own weights, by name.
        variables: what is trained: by the weight's name all its numbers or its left factor, and
            by the name with ``.down`` a right factor that is trained too.
        down: by name the right factor of a weight that has one.
        separated: names of the weights that change along ``directions`` alone.
    """

    def __init__(
        self,
        model: Model,
        parameters: Sequence[str],
        readers: Mapping[str, str],
        directions: Mapping[str, Directions],
        rank: int = 0,
        seed: int = 0,
    ):
        self.model, self.readers = model, readers
        here = model.parameters()
        self.frozen = {name: here[name] for name in parameters}
        bases = {
            stream: found.basis.T.contiguous().to(model.device)
            for stream, found in directions.items()
        }

        self.variables: dict[str, torch.Tensor] = {}
        self.down: dict[str, torch.Tensor] = {}
        self.separated = {name for name in self.frozen if readers.get(name) in bases}
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.frozen.items():
            shape = tuple(weight.shape)
            if name in self.separated:
                self.down[name] = bases[readers[name]]
                shape = shape[0], len(self.down[name])
            elif len(shape) == 2 and 0 < rank < min(shape):
                # So large that a step of the left factor moves the matrix by as much.
                rows = torch.randn(rank, shape[1], generator=generator) / math.sqrt(rank)
                self.down[name] = rows.to(model.device).requires_grad_()
                self.variables[name + DOWN] = self.down[name]
                shape = shape[0], rank
            # Zero, so that the first step starts from the base itself.
            self.variables[name] = torch.zeros(shape, device=model.device, requires_grad=True)

    @property
    def reads_text_alone(self) -> bool:
        """Whether all of its weights read text alone, so that students can share a batch."""
        return all(name in self.readers for name in self.frozen)

    def moved(self, name: str, text: torch.Tensor) -> torch.Tensor:
        """Return ``Δ e`` ``(b, l, out)`` of text embeddings ``(b, l, d)``, without making ``Δ``."""
        inner = text @ self.down[name].T if name in self.down else text

        return inner @ self.variables[name].T

    def delta(self, name: str) -> torch.Tensor:
        """Return ``Δ`` of one parameter; gradients flow to the variables."""
        variable = self.variables[name]

        return variable @ self.down[name] if name in self.down else variable

    def deltas(self) -> dict[str, Delta]:
        """Return what it has learned, on the CPU; a stream's readers share one ``down``."""
        on_cpu = {id(down): down.detach().cpu().clone() for down in self.down.values()}
        learned: dict[str, Delta] = {}
        for name in self.frozen:
            value = self.variables[name].detach().cpu().clone()
            if name not in self.down:
                learned[name] = value
                continue
            learned[name] = Factors(value, on_cpu[id(self.down[name])])

        return learned


def together(students: Sequence[Student]) -> dict[str, torch.Tensor]:
    """Return ``cast(W0 + Σ Δ_i)`` of one scope, differentiable in the students' variables.

    Summed in float32, because a small step on a bfloat16 weight rounds to nothing.
    """
    weights = {}
    for name, weight in students[0].frozen.items():
        total = sum((student.delta(name) for student in students), weight.float())
        weights[name] = total.to(weight.dtype)

    return weights


@contextlib.contextmanager
def side_by_side(students: Sequence[Student], sizes: Sequence[int]) -> Iterator[None]:
    """Let every student have its own samples of one batch, ``sizes`` of them in turn.

    Samples differ only in layers that read the text alone. These compute ``W e + Δ e``:
    ``Δ e`` is added in float32 to what the frozen layer says, whatever its dtype. Students that
    change other weights cannot share a batch.
    """

    def adding(name: str) -> Callable:
        def add(module, inputs, output):
            texts = inputs[0].float().split(list(sizes))
            pairs = zip(students, texts, strict=True)
            moved = torch.cat([student.moved(name, text) for student, text in pairs])
            return output + moved.to(output.dtype)

        return add

    model = students[0].model
    with contextlib.ExitStack() as stack:
        for name in students[0].frozen:
            handle = model.module_of(name).register_forward_hook(adding(name))
            stack.callback(handle.remove)
        yield


Inputs = tuple[torch.Tensor, torch.Tensor, Conditioning]
"""``x_t``, ``t`` and conditioning of a batch."""


@contextlib.contextmanager
def predictions(
    students: Sequence[Student], inputs: Sequence[Inputs], under: Sequence[Student] = ()
) -> Iterator[list[torch.Tensor]]:
    """Yield each student's predictions for its own inputs.

    Students that change nothing but readers of the text share one batch. Gradients must be taken
    inside the block: gradient checkpointing goes through the layers, and their hooks, once more.

    Args:
        under: students whose increments are all applied, for everyone.
    """
    model = students[0].model
    if under or not all(student.reads_text_alone for student in students):
        with model.holding(together(under or students)):
            yield [model.predict(*own) for own in inputs]
        return

    sizes = [len(own[0]) for own in inputs]
    x_t, t, conditioning = zip(*inputs, strict=True)
    with side_by_side(students, sizes):
        output = model.predict(torch.cat(x_t), torch.cat(t), Conditioning.cat(conditioning))
        yield list(output.split(sizes))
