"""ESD: erase by negative guidance (arXiv 2303.07345)."""

from __future__ import annotations

from collections.abc import Iterator

from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, fine_tuning
from multierase.models.model import Model


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Train towards ``ε̂ = ε*(x_t, a) − η [ε*(x_t, c) − ε*(x_t, ∅)]`` (eq. 7)."""
    return fine_tuning.produce(model, order, "esd", "esd")
