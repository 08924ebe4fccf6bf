"""How an increment's parameters lie in the tensors of a file, checked by names and shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from multierase.increments.container import CODES, Tensor

STORED = ("float32", "float16", "int8")  # dtypes that an increment's numbers may have
LARGEST_PARAMETER = 2**27  # numbers: five times the largest matrix of any published denoiser
UP, DOWN, SHARED, GRAM = ".up", ".down", "shared.", "gram."

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Tags:
    """The tensors of a file that are not a parameter's own.

    Args:
        grams: name of a Gram factor -> its stream.
        shared: name of a shared ``down`` -> its stream.
        readers: stored parameter -> stream; empty in format 1, in which any parameter may use the
            one shared ``down``.
    """

    grams: Mapping[str, str]
    shared: Mapping[str, str]
    readers: Mapping[str, str]

    @classmethod
    def of_format_1(cls) -> Tags:
        return cls({"gram.factor": "tokens"}, {"shared.down": "tokens"}, {})

    @classmethod
    def of_format_2(cls, tensors: Iterable[str], readers: Mapping[str, str]) -> Tags:
        """Find the tags among the names of a file's tensors.

        An increment may know its concept's tokens and change no parameter that reads them, so Gram
        factors are found by their own names.
        """
        grams = {name: name.removeprefix(GRAM) for name in tensors if name.startswith(GRAM)}
        shared = {f"{SHARED}{stream}{DOWN}": stream for stream in set(readers.values())}

        return cls(
            grams={name: stream for name, stream in grams.items() if stream.isidentifier()},
            shared=shared,
            readers=readers,
        )

    def shared_of(self, parameter: str) -> str | None:
        """Return the name of the shared ``down`` that a parameter may use."""
        if not self.readers:
            return next(iter(self.shared), None)
        stream = self.readers.get(parameter)

        return None if stream is None else f"{SHARED}{stream}{DOWN}"


def parameter_shapes(tensors: Mapping[str, Tensor], tags: Tags) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters, factored or not."""
    shapes = {}
    for name, tensor in tensors.items():
        if name in tags.grams or name in tags.shared:
            continue
        if name.endswith(UP):
            parameter = name.removesuffix(UP)
            shapes[parameter] = _factored_shape(parameter, tensor, tensors, tags)
        elif not name.endswith(DOWN):
            shapes[name] = tensor.shape

    for parameter, shape in shapes.items():
        # Factors are small and their product is not: a file of 1 MB could ask for 40 GB.
        if math.prod(shape) > LARGEST_PARAMETER:
            raise ValueError(f"{parameter} has shape {shape}, more numbers than any layer has")
    return shapes


def down_of(parameter: str, tensors: Mapping[str, object], tags: Tags) -> str:
    """Return the name of the tensor that is a factored parameter's ``down``.

    Raises:
        ValueError: if there is none.
    """
    own, shared = parameter + DOWN, tags.shared_of(parameter)
    if own in tensors:
        return own
    if shared is None or shared not in tensors:
        raise ValueError(f"{parameter} has one factor only: its {DOWN[1:]} is not there")

    return shared


def _factored_shape(
    parameter: str, up: Tensor, tensors: Mapping[str, Tensor], tags: Tags
) -> tuple[int, ...]:
    down = tensors[down_of(parameter, tensors, tags)]
    if parameter in tensors:
        raise ValueError(f"{parameter} is there twice, dense and factored")
    if len(up.shape) != 2 or len(down.shape) != 2 or up.shape[1] != down.shape[0]:
        raise ValueError(f"{parameter}: factors of shapes {up.shape} and {down.shape} do not fit")

    shape = up.shape[0], down.shape[1]
    # A narrow layer may share the directions of a wide one, but none needs more than its inputs.
    if up.shape[1] > max(shape):
        raise ValueError(f"{parameter}: rank {up.shape[1]} is more than a matrix {shape} can have")
    return shape


def require_used(tensors: Mapping[str, Tensor], shapes: Shapes, tags: Tags) -> None:
    """Raise ``ValueError`` for a tensor that belongs to no parameter."""
    used = set(tags.grams) & tensors.keys()
    for parameter in shapes:
        if parameter + UP in tensors:
            used |= {parameter + UP, down_of(parameter, tensors, tags)}
        else:
            used.add(parameter)

    unused = sorted(tensors.keys() - used)
    if unused:
        raise ValueError(f"tensor {unused[0]!r:.60} belongs to no parameter")


def require_dtypes(tensors: Mapping[str, Tensor], stated: str) -> None:
    """Raise ``ValueError`` for a tensor of another dtype than the file states."""
    for name, tensor in tensors.items():
        wanted = stored_dtype(name, stated)
        if tensor.dtype != CODES[wanted]:
            raise ValueError(f"tensor {name!r:.60} is {tensor.dtype}, the file states {wanted}")


def stored_dtype(name: str, stated: str) -> str:
    """Return the dtype of one tensor of a file whose numbers are stored as ``stated``."""
    if stated != "int8":
        return stated
    if name.endswith(UP):
        return "int8"

    return "float32" if name.endswith(DOWN) else "float16"


def require_grams(
    tensors: Mapping[str, Tensor], shapes: Shapes, readers: Mapping[str, str], tags: Tags
) -> None:
    """Raise ``ValueError`` for a Gram factor that does not fit the parameters of its stream.

    Args:
        shapes, readers: by the same names.
    """
    for name, stream in tags.grams.items():
        if name not in tensors:
            continue

        shape, widths = tensors[name].shape, set()
        for parameter, read in readers.items():
            if read == stream and len(shapes[parameter]) == 2:
                widths.add(shapes[parameter][1])
        if len(shape) != 2 or (widths and widths != {shape[0]}):
            raise ValueError(
                f"{name} has shape {shape}, its parameters read vectors of {sorted(widths)}"
            )
