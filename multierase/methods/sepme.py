"""SepME: erase by concept correlation (arXiv 2402.05947)."""

from __future__ import annotations

from collections.abc import Iterator

from multierase.increments.value import Increment
from multierase.methods import Order, Refusal, fine_tuning
from multierase.models.model import Model


def produce(model: Model, order: Order) -> Iterator[Increment | Refusal]:
    """Minimise ``mean [(ε_θ(c) − ε_θ(∅)) ⊙ (ε*(c) − ε*(∅))]`` (eq. 28).

    It has no lower bound, so the early stop is part of the method.
    """
    return fine_tuning.produce(model, order, "correlation", "sepme")
