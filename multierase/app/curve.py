"""The curve of an erasure under way, as a drawing that a browser scales."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 600, 220  # units of the drawing
LEFT, TOP, BOTTOM = 44, 26, 34  # of its margins
HIGHEST = 1.1  # degrees begin at 1, the base


def drawn(degrees: Sequence[float], steps: int) -> str:
    """Draw the erasure degree of each step so far, from 1 on the base.

    Args:
        steps: the most that may be taken: the width of the drawing.
    """
    curve = [1.0, *degrees]
    lowest = min(-0.2, *curve)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * step / max(steps, 1)

    def y(degree: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (HIGHEST - degree) / (HIGHEST - lowest)

    points = " ".join(f"{x(step):.1f},{y(degree):.1f}" for step, degree in enumerate(curve))
    lines = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(degree):.1f}" y2="{y(degree):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(degree) + 4:.1f}" text-anchor="end">{degree:g}</text>'
        for degree in (1, 0)
    )
    said = f"erasure degree after {len(degrees)} of at most {steps} steps: {curve[-1]:.2f}"
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
        f'<text x="{LEFT}" y="16">Erasure degree: 1 as in the base, 0 where nothing is left</text>'
        f'{lines}<polyline points="{points}"/>'
        f'<text x="{x(steps):.0f}" y="{HEIGHT - 8}" text-anchor="end">step {steps}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">0</text></svg>'
    )
