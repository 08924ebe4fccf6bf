"""A model's input besides the noise: named tensors, batch first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Conditioning:
    """The encoded prompts of a batch.

    Only the family knows its streams: token embeddings ``(b, l, d)``, a pooled vector ``(b, d)``,
    time ids, masks. Everybody else may cut, join and move batches.

    Args:
        streams: by name a tensor whose first dimension is the batch.
    """

    streams: Mapping[str, torch.Tensor]

    def __getitem__(self, stream: str) -> torch.Tensor:
        return self.streams[stream]

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    def __iter__(self) -> Iterator[str]:
        return iter(self.streams)

    def take(self, index: torch.Tensor | slice) -> Conditioning:
        """Return some of the batch."""
        return self._each(lambda tensor: tensor[index])

    def to(self, *args: Any, **kwargs: Any) -> Conditioning:
        """Move or cast every stream, as ``torch.Tensor.to`` does."""
        return self._each(lambda tensor: tensor.to(*args, **kwargs))

    def repeat(self, count: int) -> Conditioning:
        """Return the whole batch ``count`` times, one after another."""
        return Conditioning.cat([self] * count)

    def split(self, sizes: Sequence[int]) -> list[Conditioning]:
        """Cut the batch into parts of these sizes."""
        parts, start = [], 0
        for size in sizes:
            parts.append(self.take(slice(start, start + size)))
            start += size

        return parts

    @classmethod
    def cat(cls, parts: Sequence[Conditioning]) -> Conditioning:
        """Join batches of one model."""
        return cls({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Conditioning:
        return Conditioning({name: function(tensor) for name, tensor in self.streams.items()})
