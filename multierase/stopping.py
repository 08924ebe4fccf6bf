"""The momentum statistic that ends an erasure (SepME, arXiv 2402.05947, eq. 37)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class MomentumStop:
    """Stops once an exponential moving average of a statistic has fallen to ``threshold``.

    SepME averages its loss, whose scale is the model's; the erasure degree has no units, so one threshold serves every
    model. The average starts at 1, the degree of the untouched base, so that one lucky batch cannot end an erasure; of
    a statistic whose start is not known (``None``) it starts at the first value. ``wait``: steps in which nothing ends.
    """

    threshold: float | None
    momentum: float = 0.9
    average: float | None = 1.0
    wait: int = 0
    curve: list[float] = field(default_factory=list)

    def update(self, value: float) -> bool:
        """Take in one step's value; true when it is time to stop."""
        before = value if self.average is None else self.average
        self.average = self.momentum * before + (1 - self.momentum) * value
        self.curve.append(value)
        return self.threshold is not None and len(self.curve) > self.wait and self.average <= self.threshold
