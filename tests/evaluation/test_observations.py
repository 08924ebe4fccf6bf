import numpy as np

from multierase.evaluation.cases import Case
from multierase.evaluation.observations import Comparison, Observations
from multierase.evaluation.suites import Suite
from multierase.sampling import SamplingSettings


def test_batches_are_put_together_in_their_order():
    one = Observations({"a": ["x"]}, np.zeros((1, 2)), {3: b"p"}, {"n": [1]}, {"m": [0.5]})
    two = Observations({"a": ["y", "z"]}, np.ones((2, 2)), {}, {"n": [0, 2]}, {"m": [1.5, 2.5]})
    whole = Observations.join([one, two])

    assert whole.seen == {"a": ["x", "y", "z"]}
    assert whole.counts == {"n": [1, 0, 2]}
    assert whole.measures == {"m": [0.5, 1.5, 2.5]}
    assert whole.thumbnails == {3: b"p"}
    assert whole.features.tolist() == [[0, 0], [1, 1], [1, 1]]
    assert whole.frechet_features is None


def test_pictures_are_compared_with_the_bases_of_the_same_case():
    """Also where a suite's cases are not in the order of their numbers."""
    cases = tuple(Case(number, "a cat", 0, {}) for number in (5, 1, 3))
    suite = Suite("own", cases, {"name": "emoji"}, SamplingSettings())
    base = Observations({"a": ["x", "y", "z"]}, np.eye(3, dtype=np.float32), {})
    swapped = Observations({"a": ["x", "y", "z"]}, np.eye(3, dtype=np.float32)[[1, 0, 2]], {})

    comparison = Comparison.with_base(suite, base)
    pictures = comparison.outcome(suite, ("b",), swapped).pictures
    assert list(pictures) == [1, 3, 5]
    assert {n: (one.seen["a"], one.distance) for n, one in pictures.items()} == {
        1: ("y", 1.0),
        3: ("z", 0.0),
        5: ("x", 1.0),
    }
    assert comparison.outcome(suite, (), base).frechet_distance is None


def test_a_judge_without_features_has_no_distances():
    suite = Suite("own", (Case(0, "a cat", 0, {}),), {"name": "nudenet"}, SamplingSettings())
    seen = Observations({"a": ["x"]}, None, {})
    outcome = Comparison.with_base(suite, seen).outcome(suite, ("b",), seen)
    assert outcome.pictures[0].distance is outcome.frechet_distance is None
