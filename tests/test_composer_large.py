"""A library of five hundred concepts is composed as fast as its erased ones ask for."""

from __future__ import annotations

import gc
import statistics
import time

import pytest
from compositions import random_increment

from multierase import Composer, Library

COUNT = 500
BUSY = 1.5  # how much slower a machine with other work may be


@pytest.fixture
def library(tiny, tmp_path):
    library = Library(tmp_path / "library", create=True)
    made = [random_increment(tiny, str(i), "esd-x-strict", i, factored=True) for i in range(4)]
    for number in range(COUNT):
        library.save(made[number % 4].named(f"concept {number}"))
    return Library(library.folder)


def seconds_of_switches(composer, names) -> float:
    """The median of erasing one more and restoring one, beside one that stays erased."""
    composer.erase(names[0])
    found = []
    for name in names[1:]:
        began = time.perf_counter()
        composer.erase(name)
        composer.restore(name)
        found.append((time.perf_counter() - began) / 2)
    composer.close()

    return statistics.median(found)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["in memory", "in a folder"])
def test_a_joint_switch_takes_at_most_three_times_a_sums(tiny, library, kept):
    increments = dict(library) if kept == "in memory" else library
    names = [f"concept {number}" for number in range(0, COUNT, 25)]
    composers = {solve: Composer(tiny, increments, solve=solve) for solve in ("sum", "joint")}
    for composer in composers.values():
        seconds_of_switches(composer, names)  # everything is loaded
    ratios = []
    for _ in range(5):
        times = {s: seconds_of_switches(composer, names) for s, composer in composers.items()}
        ratios.append(times["joint"] / times["sum"])
    assert statistics.median(ratios) < 3 * BUSY, (ratios, times)


@pytest.mark.slow
def test_first_contact_takes_at_most_a_second(tiny, library):
    # The processor's seconds, and no garbage of the tests before: neither is the composer's.
    gc.collect()
    gc.freeze()
    try:
        began = time.process_time()
        Composer(tiny, Library(library.folder), solve="joint").erase("concept 7")
        first = time.process_time() - began
    finally:
        gc.unfreeze()
    assert first < 1 * 2 * BUSY, first
