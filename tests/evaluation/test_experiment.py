import pytest

from multierase.errors import UsageError
from multierase.evaluation.evaluate import by_method
from multierase.evaluation.experiment import Experiment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "uec"}, "method 'uec'; did you mean 'uce'\\?; give one of \\['increments'"),
        ({"method": "peer"}, "goes with the method 'peer', and only with it"),
        ({"method": "uce", "peer": "x"}, "goes with the method 'peer', and only with it"),
        ({"lpips": "alexnet"}, "LPIPS backbone 'alexnet'; did you mean 'alex'"),
        ({"thumbnails": -1}, "-1 thumbnails: give 0 or more"),
    ],
)
def test_experiments_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        Experiment(suite="studios", **options)


def test_a_peer_is_one_more_method():
    fields = {"suite": "studios", "peer": "theirs/"}
    experiments = by_method(fields, ["uce", "negative-prompt", "uce"])
    assert list(experiments) == ["uce", "negative-prompt", "peer"]
    assert [one.peer for one in experiments.values()] == [None, None, "theirs/"]

    assert list(by_method({"suite": "studios"}, [])) == ["increments"]
