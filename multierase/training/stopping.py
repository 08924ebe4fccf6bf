"""The momentum statistic that ends an erasure (SepME, arXiv 2402.05947, eq. 37)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class MomentumStop:
    """Stops once an exponential moving average of a statistic has fallen to a threshold.

    SepME averages its loss, whose scale is the model's. The erasure degree has no unit, so one
    threshold serves every model.

    Args:
        threshold: the value to fall to; ``None`` never stops.
        momentum: share of the old average that is kept at each step.
        average: its start. 1 is the degree of the untouched base, so that one lucky batch cannot
            end an erasure. ``None``, for a statistic whose start is not known, takes the first
            value.
        wait: minimum number of steps before stopping.
        curve: the value of every step.
    """

    threshold: float | None
    momentum: float = 0.9
    average: float | None = 1.0
    wait: int = 0
    curve: list[float] = field(default_factory=list)

    def update(self, value: float) -> bool:
        """Take in one step's value; return whether it is time to stop."""
        before = value if self.average is None else self.average
        self.average = self.momentum * before + (1 - self.momentum) * value
        self.curve.append(value)
        if self.threshold is None or len(self.curve) <= self.wait:
            return False

        return self.average <= self.threshold
