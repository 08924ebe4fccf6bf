"""The momentum statistic that ends an erasure (SepME, arXiv 2402.05947, eq. 37, on the erasure degree)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class MomentumStop:
    """Stops once an exponential moving average of the erasure degree has fallen to ``threshold``.

    SepME averages its loss, whose scale is the model's; the erasure degree has no units, so one threshold serves every
    model. The average starts at 1, the degree of the untouched base, so that one lucky batch cannot end an erasure.
    """

    threshold: float | None
    momentum: float = 0.9
    average: float = 1.0
    curve: list[float] = field(default_factory=list)

    def update(self, degree: float) -> bool:
        """Take in one step's erasure degree; true when it is time to stop."""
        self.average = self.momentum * self.average + (1 - self.momentum) * degree
        self.curve.append(degree)
        return self.threshold is not None and self.average <= self.threshold
