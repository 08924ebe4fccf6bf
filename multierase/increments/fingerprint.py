"""Which base an increment belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from multierase.files import digest_bytes

if TYPE_CHECKING:
    import torch

# Relative rounding error of a cast, per weight. A random projection of many weights moves by less
# than four of these.
ROUNDING = {"float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Fingerprint:
    """Identifies the base's weights of every touched parameter.

    The digest says "the same bits". A base that was erased in float32 is served in float16 all the
    same, so the sketch says "the same weights, up to the rounding of a cast".

    Args:
        name: what the base was loaded from.
        family: its family of models.
        dtype: the precision in which its weights were seen.
        digests: by parameter the first 16 hex digits of the SHA-256 of its bytes.
        sketches: by parameter its root mean square, and its projection on a fixed random direction.
    """

    name: str
    family: str
    dtype: str
    digests: Mapping[str, str]
    sketches: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, name: str, family: str, tensors: Mapping[str, torch.Tensor]) -> Fingerprint:
        """Take the fingerprint of these parameters."""
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}

        return cls(
            name=name,
            family=family,
            dtype=max(dtypes, key=lambda dtype: ROUNDING.get(dtype, 0), default="float32"),
            digests={key: _digest(tensor) for key, tensor in tensors.items()},
            sketches={key: _sketch(tensor) for key, tensor in tensors.items()},
        )

    def differing(self, other: Fingerprint) -> list[str]:
        """Return the parameters in both whose weights are not the same, up to a cast's rounding."""
        shared = self.digests.keys() & other.digests.keys()

        return sorted(key for key in shared if not self._same(other, key))

    def union(self, other: Fingerprint) -> Fingerprint:
        """Return the fingerprint of the parameters of either."""
        return replace(
            self,
            digests={**self.digests, **other.digests},
            sketches={**self.sketches, **other.sketches},
        )

    def _same(self, other: Fingerprint, key: str) -> bool:
        if self.digests[key] == other.digests[key]:
            return True
        if self.dtype == other.dtype:
            return False

        here, there = self.sketches[key], other.sketches[key]
        scale = max(here[0], there[0])
        tolerance = 4 * max(ROUNDING[self.dtype], ROUNDING[other.dtype]) * scale
        return all(abs(a - b) <= tolerance for a, b in zip(here, there, strict=True))


def _digest(tensor: torch.Tensor) -> str:
    import torch

    data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return digest_bytes(data.data, length=16)


def _sketch(tensor: torch.Tensor) -> tuple[float, float]:
    import torch

    flat = tensor.detach().cpu().flatten().double()
    # Signs from an integer hash of the position: the same on every platform and in every torch.
    position = torch.arange(flat.numel(), dtype=torch.int64)
    signs = (((position * 2654435761 + 40503) >> 13) & 1).double() * 2 - 1
    projection = (flat * signs).sum().item() / math.sqrt(flat.numel())

    return flat.square().mean().sqrt().item(), projection
