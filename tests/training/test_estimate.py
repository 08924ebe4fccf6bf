"""An estimate is the most that an erasure takes, and not far from it."""

from __future__ import annotations

import dataclasses

import pytest

from multierase import EraseSettings, Workspace
from multierase.errors import UsageError


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"scope": "esd-x"}, {"schedule": "frozen", "steps": 12}])
def test_it_is_the_most_and_not_far_from_it(emoji, tmp_path, given):
    settings = EraseSettings(stop_at=None, **given)
    workspace = Workspace(tmp_path, emoji)
    expected = workspace.estimate(settings)
    (made,) = workspace.train("Noto", settings=settings)
    spent = made.increment.provenance.cost.evaluations
    assert 0.6 * expected.evaluations <= spent <= expected.evaluations
    size = made.path.stat().st_size
    assert 0.2 * expected.bytes <= size <= expected.bytes
    assert expected.seconds > 0


def test_what_a_task_vector_takes(tiny, quick, tmp_path):
    """It draws pictures, and learns from them."""
    settings = dataclasses.replace(quick, sampling_batch=2)
    workspace = Workspace(tmp_path, tiny)
    expected = workspace.estimate(settings, "task-vector")
    (made,) = workspace.train("Noto", settings=settings, method="task-vector")
    assert made.increment.provenance.cost.evaluations == expected.evaluations


def test_a_closed_form_asks_no_denoiser(tiny, tmp_path):
    found = Workspace(tmp_path, tiny).estimate(EraseSettings(kind="none"), "uce")
    assert (found.evaluations, found.seconds) == (0, 0)
    assert found.bytes > 0


def test_low_rank_is_smaller(tiny, tmp_path):
    workspace = Workspace(tmp_path, tiny)
    whole = EraseSettings(kind="none", scope="full", rank=0)
    low = dataclasses.replace(whole, rank=1)
    assert workspace.estimate(low).bytes < workspace.estimate(whole).bytes


def test_what_does_not_exist(tiny, tmp_path):
    workspace = Workspace(tmp_path, tiny)
    with pytest.raises(UsageError, match="unknown method 'edsd'"):
        workspace.estimate(EraseSettings(kind="none"), "edsd")
    with pytest.raises(UsageError, match="kind"):
        workspace.estimate(EraseSettings(kind="artsit"))
