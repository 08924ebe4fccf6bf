"""Settings are checked all at once."""

from __future__ import annotations

import pytest

from multierase import EraseSettings


def test_every_problem_is_told_at_once():
    with pytest.raises(ValueError, match="erase settings") as error:
        EraseSettings(
            scope="esdx",
            schedule="fast",
            steps=0,
            learning_rate=float("nan"),
            eta=float("inf"),
            momentum=1.0,
            beta=-1.0,
        )
    for part in (
        "did you mean 'esd-x'",
        "schedule is 'fast', give one of ['pooled', 'frozen', 'student']",
        "steps is 0",
        "learning_rate is nan",
        "eta is inf",
        "momentum is 1.0",
        "beta is -1.0",
    ):
        assert part in str(error.value)


def test_steps_ahead_are_as_many_as_are_sampled_at_once():
    ahead = {
        schedule: EraseSettings(schedule=schedule, batch_size=3, sampling_batch=10).steps_ahead
        for schedule in ("pooled", "frozen", "student")
    }
    assert ahead == {"pooled": 3, "frozen": 3, "student": 1}
    assert EraseSettings(batch_size=30, sampling_batch=10).steps_ahead == 1
