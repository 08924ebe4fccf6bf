"""Judges say what is in a picture: classifiers that had no part in making it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch


@dataclass(frozen=True)
class Verdict:
    """What a judge sees in ``b`` pictures.

    ``seen``: for each kind of label, such as ``studio``, the most likely class of every picture.
    ``features``: ``(b, f)``, of which distances between pictures are made; ``None`` if the judge
    has none. ``counts``: for each thing that is counted, how many are in every picture.
    """

    seen: dict[str, list[str]]
    features: torch.Tensor | None
    counts: dict[str, list[int]] = field(default_factory=dict)


class Judge(Protocol):
    """Anything that can say what is in a picture.

    ``name``: its name and version, which every result states. ``classes``: for each kind of label,
    the classes that it can see. ``features``: what its verdicts' features are, which results state;
    empty if there are none.
    """

    name: str
    classes: Mapping[str, Sequence[str]]
    features: str

    def __call__(self, images: torch.Tensor) -> Verdict:
        """Judge ``(b, 3, h, w)`` pictures in [0, 1]."""
