"""What a run of the training loop tells whoever watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from multierase.training.delta import together
from multierase.training.erasure import Erasure


@dataclass(frozen=True)
class Progress:
    """How far a run has come, after one of its steps.

    Args:
        step: steps taken; a concept that is gone earlier takes fewer.
        steps: the most that may be taken.
        curves: by concept the erasure degree of each of its steps: 1 on the base, 0 where the
            concept adds nothing any more.
        evaluations: of the denoiser so far.
        erasures: the run's own, for ``applied``.
    """

    step: int
    steps: int
    curves: Mapping[str, tuple[float, ...]]
    evaluations: int
    erasures: Sequence[Erasure]

    @classmethod
    def of(cls, erasures: Sequence[Erasure]) -> Progress:
        """Take the state of erasures under way."""
        return cls(
            step=max(erasure.step for erasure in erasures),
            steps=erasures[0].plan.steps,
            curves={erasure.concept.name: tuple(erasure.degree.curve) for erasure in erasures},
            evaluations=round(sum(erasure.evaluations.total for erasure in erasures)),
            erasures=erasures,
        )

    @contextlib.contextmanager
    def applied(self, concept: str) -> Iterator[None]:
        """Let the model be the one that is trained for ``concept``, for a block of previews."""
        (erasure,) = (one for one in self.erasures if one.concept.name == concept)
        with erasure.model.holding(together([erasure.student])):
            yield


Watch = Callable[[Progress], bool]
"""Told of each step; returns whether the run goes on. It ends where it can be resumed."""
