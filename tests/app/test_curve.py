"""The curve of an erasure under way."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest

from multierase.app.curve import HIGHEST, drawn


def points(svg: str) -> list[tuple[float, float]]:
    (line,) = ElementTree.fromstring(svg).iter("polyline")
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def height_of(svg: str, degree: str) -> float:
    (line,) = re.findall(rf'y1="([\d.]+)" y2="[\d.]+"/><text[^>]*>{degree}</text>', svg)
    return float(line)


def test_it_begins_at_the_base_and_has_a_point_per_step():
    svg = drawn((0.5, 0.0), 10)
    (begin, first), (_, half), (_, none) = points(svg)
    assert first == pytest.approx(height_of(svg, "1"), abs=0.1)
    assert none == pytest.approx(height_of(svg, "0"), abs=0.1)
    assert half == pytest.approx((first + none) / 2, abs=0.1)

    steps = [x for x, _ in points(drawn((0.5,) * 10, 10))]
    assert steps[0] == begin
    gaps = {round(after - before, 0) for before, after in itertools.pairwise(steps)}
    assert len(gaps) <= 2


@pytest.mark.parametrize("degrees", [(), (0.9,), (-3.0, 2.0), (0.0,) * 500])
def test_nothing_leaves_the_drawing_below(degrees):
    svg = drawn(degrees, 500)
    assert all(y <= 220 - 30 for _, y in points(svg))
    assert all(
        y >= 0 or degree > HIGHEST
        for (_, y), degree in zip(points(svg), (1, *degrees), strict=True)
    )
    assert f"after {len(degrees)} of at most 500 steps" in svg
