"""A run tells each step, can be looked at on the way, and ends where it can be resumed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trained import assert_same_bits

from multierase import Workspace, generate
from multierase.errors import Cancelled
from multierase.files import digest_tensors

pytestmark = pytest.mark.slow  # trains increments


def test_each_step_is_told(tiny, quick, tmp_path):
    seen = []
    workspace = Workspace(tmp_path, tiny)
    (made,) = workspace.train("Noto", settings=quick, watch=lambda one: seen.append(one) or True)
    assert [one.step for one in seen] == [1, 2, 3]
    assert {one.steps for one in seen} == {3}
    degrees = seen[-1].curves["Noto"]
    assert [round(degree, 5) for degree in degrees] == list(made.increment.provenance.stop.degrees)
    evaluations = [one.evaluations for one in seen]
    assert evaluations == sorted(set(evaluations))
    assert evaluations[-1] <= made.increment.provenance.cost.evaluations


@pytest.mark.parametrize("scope", ["esd-x-strict", "esd-u"])
def test_a_preview_is_of_the_increment_so_far_and_changes_nothing(tiny, quick, tmp_path, scope):
    settings = dataclasses.replace(quick, scope=scope)
    previews, before = [], digest_tensors(tiny.parameters())

    def watch(progress):
        with progress.applied("Noto"):
            previews.append(generate.generate(tiny, ["a church by Noto"], [0]))
        assert digest_tensors(tiny.parameters()) == before
        return True

    watched, alone = (Workspace(tmp_path / name, tiny, create=True) for name in ("a", "b"))
    (one,) = watched.train("Noto", settings=settings, watch=watch)
    (other,) = alone.train("Noto", settings=settings)
    assert_same_bits(one.increment, other.increment)

    with watched.erasing("Noto"):
        whole = generate.generate(tiny, ["a church by Noto"], [0])
    torch.testing.assert_close(previews[-1], whole, atol=1e-3, rtol=0)
    assert not torch.equal(previews[0], previews[-1])


def test_it_ends_where_it_goes_on_to_the_same_bits(tiny, quick, tmp_path):
    settings = dataclasses.replace(quick, steps=9, sampling_batch=4)
    ended, alone = (Workspace(tmp_path / name, tiny, create=True) for name in ("a", "b"))
    with pytest.raises(Cancelled, match="was ended at step 4 of 9"):
        ended.train("Noto", settings=settings, watch=lambda progress: progress.step < 3)
    assert list(ended.library) == []

    seen = []
    (one,) = ended.train(
        "Noto", settings=settings, resume=True, watch=lambda now: seen.append(now.step) or True
    )
    assert seen == [5, 6, 7, 8, 9]
    (other,) = alone.train("Noto", settings=settings)
    assert_same_bits(one.increment, other.increment)


def test_who_ends_it_at_the_last_step_loses_nothing(tiny, quick, tmp_path):
    (made,) = Workspace(tmp_path, tiny).train(
        "Noto", settings=quick, watch=lambda progress: progress.step < quick.steps
    )
    assert made.increment.provenance.stop.steps == quick.steps
