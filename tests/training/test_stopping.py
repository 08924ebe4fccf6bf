"""The moving average that ends an erasure."""

from __future__ import annotations

from multierase.training.stopping import MomentumStop


def test_stops_when_the_average_not_one_step_is_below():
    stop = MomentumStop(threshold=0.0, momentum=0.5)
    assert not stop.update(-0.5)  # average 0.25
    assert stop.update(-0.5)  # average -0.125
    assert stop.curve == [-0.5, -0.5]
    assert stop.average == -0.125


def test_one_lucky_step_does_not_stop():
    stop = MomentumStop(threshold=-0.5, momentum=0.9)
    assert not stop.update(-5)


def test_no_threshold_never_stops():
    stop = MomentumStop(threshold=None)
    assert not any(stop.update(-100.0) for _ in range(50))


def test_a_statistic_without_a_known_start_begins_at_its_first_value_and_waits():
    stop = MomentumStop(threshold=0.5, momentum=0.5, average=None, wait=2)
    assert [stop.update(value) for value in (0.4, 0.4, 0.4)] == [False, False, True]
    assert stop.average == 0.4
