import pytest

from multierase.errors import UsageError
from multierase.evaluation.sweep import base_first
from multierase.executors.choice import executor_of
from multierase.executors.processes import Processes
from multierase.executors.ray import RayCluster


def test_the_base_comes_first():
    def late(sets):
        yield from ((erased, None) for erased in reversed(sets))

    sets = [(), ("Noto",), ("Firefox",)]
    order = [erased for erased, _ in base_first(late(sets), sets)]
    assert order == [(), ("Firefox",), ("Noto",)]
    order = [erased for erased, _ in base_first(late(sets[1:]), sets[1:])]
    assert order == [("Firefox",), ("Noto",)]
    assert list(base_first(iter(()), [])) == []


def test_what_a_command_line_asks_for():
    assert executor_of() == Processes()
    assert executor_of(workers=3) == Processes(3)
    cluster = executor_of("ray", 2, "10.0.0.1:6379", 1)
    assert cluster == RayCluster("10.0.0.1:6379", 2, 1)
    with pytest.raises(UsageError, match="--address is a Ray cluster's: give --executor ray too"):
        executor_of(address="10.0.0.1:6379")
    with pytest.raises(UsageError, match="executor 'rey'; did you mean 'ray'"):
        executor_of("rey")


@pytest.mark.parametrize("kind", [Processes, RayCluster])
def test_a_worker_at_least(kind):
    with pytest.raises(UsageError, match="0 workers: give 1 or more"):
        kind(workers=0)


def test_a_single_worker_is_this_process():
    assert Processes(1).works_here(9)
    assert Processes(8).works_here(1)
    assert not Processes(2).works_here(9)
    assert not RayCluster().works_here(1)
