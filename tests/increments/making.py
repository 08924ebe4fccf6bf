"""Small increments with names that a base of the family could have."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from multierase import Increment
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Provenance
from multierase.increments.value import Factors

A, B = "unet.mid.attn2.to_k.weight", "unet.mid.attn2.to_v.weight"  # both read the text alone
C = "unet.mid.attn1.to_q.weight"
NAMES = (A, B, C)
READERS = {A: "tokens", B: "tokens"}


def make(
    concept: str = "Van Gogh",
    seed: int = 1,
    *,
    names: Sequence[str] = (A, C),
    factored: Collection[str] = (),
    shape: tuple[int, int] = (12, 10),
    rank: int = 2,
    base: str = "base",
    base_seed: int = 0,
    **stated: object,
) -> Increment:
    """Make an increment of these parameters, of the given rank, with a Gram factor of ones.

    Args:
        seed: of its numbers; ``base_seed`` is that of the base's weights.
        factored: the parameters that are stored as factors.
        stated: more of its provenance.
    """
    numbers = torch.Generator().manual_seed(seed)
    weights = torch.Generator().manual_seed(base_seed)
    deltas, touched = {}, {}
    for name in NAMES:
        weight = torch.randn(shape, generator=weights)
        if name in names:
            touched[name] = weight
            up = torch.randn(shape[0], rank, generator=numbers)
            down = torch.randn(rank, shape[1], generator=numbers)
            deltas[name] = Factors(up, down) if name in factored else up @ down

    return Increment(
        deltas=deltas,
        base=Fingerprint.of(base, "stable-diffusion", touched),
        provenance=Provenance(concept, **stated),
        grams={"tokens": torch.ones(shape[1], 1)},
        readers={name: stream for name, stream in READERS.items() if name in deltas},
    )


def of_matrices(deltas: dict[str, torch.Tensor | Factors], **parts: object) -> Increment:
    """Make an increment of these deltas, of a base of ones."""
    ones = {name: torch.ones(delta.shape) for name, delta in deltas.items()}
    parts = {"provenance": Provenance("x"), **parts}

    return Increment(
        deltas,
        Fingerprint.of("tiny", "stable-diffusion", ones),
        readers={name: stream for name, stream in READERS.items() if name in deltas},
        **parts,
    )


def assert_close(left: Increment, right: Increment, tolerance: float = 1e-5) -> None:
    """Compare the numbers alone, up to float32's rounding."""
    assert left.deltas.keys() == right.deltas.keys()
    for name in left.deltas:
        torch.testing.assert_close(
            left.dense(name), right.dense(name), rtol=tolerance, atol=tolerance
        )


def lost(whole: Increment, small: Increment) -> float:
    """Measure ``‖whole − small‖ / ‖whole‖`` in float64, by dense matrices."""
    squares = 0.0
    for name in whole.deltas:
        squares += (whole.dense(name).double() - small.dense(name).double()).square().sum().item()

    return squares**0.5 / whole.norm()
