"""Composing: the laws of a set of increments, and the joint solve against plain least squares."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from compositions import (
    CONCEPTS,
    assert_bits,
    increments_of,
    random_increment,
    snapshot,
    twin_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multierase import Composer, KeepList, TaggedPrompt
from multierase.errors import IncrementFileError, UnknownConcept
from multierase.increments.value import Factors
from multierase.models.loading import DTYPES

A_DOG = TaggedPrompt("a dog")
BY_DALI = TaggedPrompt("a church by dali", frozenset({"dali"}))


@pytest.fixture
def composer(tiny):
    return Composer(tiny, increments_of(tiny))


# The laws.

strength = st.sampled_from([0.5, 1.0, -1.0, 2.0])
histories = st.lists(
    st.tuples(st.sampled_from(CONCEPTS), st.one_of(st.none(), strength)), max_size=12
)
SHARED = {}  # hypothesis calls a test many times: one model for each dtype and solve


def shared(tokenizer, tiny, dtype, solve):
    if (dtype, solve) not in SHARED:
        model = twin_of(tiny)
        model.pipeline.unet.to(DTYPES[dtype])
        composer = Composer(model, increments_of(model), solve=solve)
        SHARED[dtype, solve] = model, composer, snapshot(model)
    return SHARED[dtype, solve]


@pytest.mark.parametrize("solve", ["sum", "joint"])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=histories)
def test_weights_are_a_function_of_the_set_never_of_the_history(
    tokenizer, tiny, dtype, solve, history
):
    model, composer, base = shared(tokenizer, tiny, dtype, solve)
    erased = {}
    for concept, value in history:
        if value is None and concept in erased:
            composer.restore(concept)
            del erased[concept]
        elif value is not None:
            composer.erase(concept, strength=value)
            erased[concept] = value
    assert composer.erased == erased

    after = snapshot(model)
    composer.restore_all()
    assert_bits(model, base)

    fresh = Composer(model, composer.increments, solve=solve)
    fresh.set(dict(reversed(erased.items())))
    assert_bits(model, after)
    fresh.close()
    assert_bits(model, base)


def test_composed_weight_is_base_plus_sum_of_increments(tiny, composer):
    base = {name: weight.numpy() for name, weight in snapshot(tiny).items()}
    composer.set({"dali": 1.0, "van gogh": 0.5, "monet": -2.0})
    for name, parameter in tiny.parameters().items():
        expected = base[name].astype(np.float64)
        for concept, factor in composer.erased.items():
            delta = composer.increments[concept].deltas.get(name)
            if isinstance(delta, Factors):
                expected = expected + factor * (delta.up.numpy() @ delta.down.numpy())
            elif delta is not None:
                expected = expected + factor * delta.numpy()
        np.testing.assert_allclose(parameter.numpy(force=True), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solve", ["sum", "joint"])
def test_one_restored_is_never_having_erased_it(tiny, solve):
    composer = Composer(tiny, increments_of(tiny), solve=solve)
    composer.erase("monet")
    never = snapshot(tiny)
    composer.erase("dali", "van gogh")
    composer.restore("dali", "van gogh")
    assert_bits(tiny, never)


def test_two_hundred_cycles_do_not_drift(tiny, composer):
    base = snapshot(tiny)
    for _ in range(200):
        composer.erase("dali")
        composer.restore("dali")
    assert_bits(tiny, base)


def test_erasing_restores_the_state_before_even_when_nested_or_raising(tiny, composer):
    composer.erase("dali")
    before = snapshot(tiny)

    def nested():
        with composer.erasing("monet"):
            with composer.erasing("dali", strength=0.5):
                assert composer.erased == {"dali": 0.5, "monet": 1.0}
            assert composer.erased == {"dali": 1.0, "monet": 1.0}
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        nested()
    assert composer.erased == {"dali": 1.0}
    assert_bits(tiny, before)


def test_untouched_weights_are_never_written_nor_copied(tiny, composer):
    versions = {name: parameter._version for name, parameter in tiny.parameters().items()}
    composer.erase("dali")
    here = tiny.parameters()
    written = {name for name in here if here[name]._version != versions[name]}
    assert written == set(composer.increments["dali"].deltas)
    assert set(composer._weights._pristine) == written


def test_strength_zero_is_not_erased(tiny, composer):
    base = snapshot(tiny)
    composer.set({"dali": 0.0})
    assert composer.erased == {}
    assert_bits(tiny, base)


def test_erased_is_read_only_and_in_order(composer):
    composer.erase("van gogh", "dali")
    assert list(composer.erased) == ["dali", "van gogh"]
    with pytest.raises(TypeError):
        composer.erased["monet"] = 1.0


# What is refused changes nothing.


def test_errors_change_nothing(tiny, composer):
    composer.erase("dali")
    before = snapshot(tiny)
    with pytest.raises(UnknownConcept, match="no increment for 'Monet'; did you mean 'monet'"):
        composer.erase("van gogh", "Monet")
    not_erased = r"cannot restore \['monet'\]: not erased; erased now: \['dali'\]"
    with pytest.raises(ValueError, match=not_erased):
        composer.restore("monet")
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            composer.erase("monet", strength=wrong)
    assert composer.erased == {"dali": 1.0}
    assert_bits(tiny, before)


def test_an_increment_of_another_base_is_refused_even_beside_one_that_fits(tiny):
    other = twin_of(tiny)
    for parameter in other.parameters().values():
        parameter.mul_(1.1)
    mixed = {
        "dali": random_increment(tiny, "dali", "esd-x", 0),
        "x": random_increment(other, "x", "esd-x", 1),
    }
    composer = Composer(tiny, mixed)
    composer.erase("dali")
    before = snapshot(tiny)
    with pytest.raises(IncrementFileError, match="made for another base"):
        composer.erase("x")
    assert_bits(tiny, before)


@pytest.mark.parametrize("solve", ["sum", "joint"])
def test_weights_that_would_not_be_finite_are_never_written(tiny, solve):
    increments = increments_of(tiny)
    dali = increments["dali"]
    huge = {n: Factors(d[:, :1] * 1e20, 1e20 * torch.ones(1, d.shape[1])) for n, d in _pairs(dali)}
    increments["huge"] = replace(dali.named("huge"), deltas=huge)
    composer = Composer(tiny, increments, solve=solve)
    composer.erase("van gogh")
    before = snapshot(tiny)

    for concept, factor in (("dali", 1e39), ("dali", -1e300), ("huge", 1.0), ("monet", 1e41)):
        for attempt in (composer.set, composer.check):
            with pytest.raises(ValueError, match="infinite in torch.float32: give smaller"):
                attempt({concept: factor, "van gogh": 1.0})
        assert composer.erased == {"van gogh": 1.0}
        assert_bits(tiny, before)


def test_a_strength_that_float16_cannot_hold_is_refused(tiny):
    increments = increments_of(tiny)
    tiny.pipeline.unet.half()
    base = snapshot(tiny)
    composer = Composer(tiny, increments)
    composer.erase("dali", strength=1e5)  # within float16's range
    with pytest.raises(ValueError, match="infinite in torch.float16"):
        composer.erase("dali", strength=1e8)
    assert composer.erased == {"dali": 1e5}
    composer.close()
    assert_bits(tiny, base)


def _pairs(increment):
    return [(name, increment.dense(name)) for name in increment.deltas]


# Precision.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_erased_in_float32_served_in_half(tiny, dtype):
    increment = random_increment(tiny, "dali", "esd-x", 0)
    tiny.pipeline.unet.to(DTYPES[dtype])
    base = snapshot(tiny)
    composer = Composer(tiny, {"dali": increment})
    composer.erase("dali")
    for name in increment.deltas:
        expected = (base[name].float() + increment.dense(name)).to(DTYPES[dtype])
        assert torch.equal(tiny.parameters()[name], expected)
    composer.restore_all()
    assert_bits(tiny, base)


# The joint solve.


def change_of_readers(model, base):
    """All that reads the text, as one matrix: what it became, less what it was."""
    here = model.parameters()

    return torch.cat([here[name].detach() - base[name] for name in sorted(model.readers)]).double()


def stacked(model, increment):
    return torch.cat([increment.dense(name) for name in sorted(model.readers)]).double()


def factor_of(increment):
    return increment.grams["tokens"].double()


@pytest.mark.parametrize("strengths", [{"dali": 1.0, "van gogh": -0.5}, {"dali": 1.0}])
def test_joint_is_the_least_squares_solution(tiny, strengths):
    """Against the stacked system: own tokens move as their increments move them, kept ones stay."""
    increments = {n: i for n, i in increments_of(tiny).items() if n != "nudity"}
    keep = KeepList.of(tiny, [A_DOG, BY_DALI], ["dali"])
    base = snapshot(tiny)
    composer = Composer(tiny, increments, solve="joint", keep=keep, keep_weight=3.0, ridge=0.01)
    composer.set(strengths)

    def scaled(rows, weight=1.0):
        return rows.double() * (weight * rows.shape[1] / rows.double().square().sum()).sqrt()

    kept = tiny.tokens(["", "a dog"])  # nothing about an erased concept
    width = kept.shape[1]
    systems = [0.1 * torch.eye(width).double()]
    others = [
        factor_of(increments[name]).T for name in sorted(increments.keys() - strengths.keys())
    ]
    for rows in (kept, torch.cat(others)):  # two lists
        systems.append(scaled(rows, len(strengths) * 3.0 / 2))
    outputs = len(stacked(tiny, increments["dali"]))
    targets = [torch.zeros(sum(map(len, systems)), outputs).double()]
    for concept, factor in strengths.items():
        tokens = scaled(factor_of(increments[concept]).T)
        systems.append(tokens)
        targets.append(factor * tokens @ stacked(tiny, increments[concept]).T)

    solution = torch.linalg.lstsq(torch.cat(systems), torch.cat(targets)).solution.T
    torch.testing.assert_close(change_of_readers(tiny, base), solution, atol=2e-6, rtol=1e-3)


def test_joint_separates_concepts_that_have_room_where_a_sum_mixes_them(tiny, composer):
    erased = {"dali": 1.0, "van gogh": 1.0}
    joint = Composer(tiny, composer.increments, solve="joint", keep_weight=100.0, ridge=1e-3)
    joint.set(erased)  # 24 tokens of four concepts in 32 dimensions
    assert max(joint.deviations().values()) < 0.01
    joint.close()
    composer.set(erased)
    assert min(composer.deviations().values()) > 0.1


def test_deviations_are_what_the_others_do_to_a_concept(tiny, composer):
    composer.erase("dali")
    assert composer.deviations() == {"dali": pytest.approx(0, abs=1e-6)}
    composer.erase("van gogh")
    dali, other = (composer.increments[name] for name in ("dali", "van gogh"))
    interference = (stacked(tiny, other) @ factor_of(dali)).norm()
    expected = interference / (stacked(tiny, dali) @ factor_of(dali)).norm()
    assert composer.deviations()["dali"] == pytest.approx(expected.item(), rel=1e-4)


def test_an_increment_without_a_gram_matrix_can_only_be_summed(tiny, caplog):
    increments = increments_of(tiny)
    increments["dali"] = replace(increments["dali"], grams={})
    base = snapshot(tiny)
    composer = Composer(tiny, increments, solve="joint")
    with pytest.raises(ValueError, match="'dali' has no Gram matrix.*erase it again"):
        composer.erase("dali")
    assert_bits(tiny, base)

    for _ in range(2):
        composer.erase("van gogh")
        composer.restore_all()
    told = [m for m in caplog.messages if "the joint solve does not protect 'dali'" in m]
    assert len(told) == 1  # once, and the others are composed
    assert_bits(tiny, base)
    Composer(tiny, increments).erase("dali", "van gogh")


def test_what_a_joint_solve_cannot_reach_is_said_once(tiny, caplog):
    composer = Composer(tiny, increments_of(tiny), solve="joint")
    for _ in range(2):
        composer.erase("nudity", "dali")
        composer.restore_all()
    told = [message for message in caplog.messages if "summed, whatever the solve" in message]
    assert len(told) == 1
    assert told[0].startswith("'nudity' changes")


def test_the_default_is_joint_with_a_keep_list_and_the_sum_without(tiny):
    increments = increments_of(tiny)
    assert Composer(tiny, increments).solve == "sum"
    assert Composer(tiny, increments, keep=KeepList.of(tiny, [], increments)).solve == "joint"


def test_the_kept_side_grows_with_the_number_of_erased_concepts(tiny):
    """A copy of a concept under another name must not halve the weight of what is kept."""
    one, *_ = increments_of(tiny).values()
    kept = KeepList.of(tiny, [A_DOG], [])
    changes = []
    for names in (["a"], ["a", "b", "c", "d"]):
        base = snapshot(tiny)
        composer = Composer(tiny, dict.fromkeys(names, one), keep=kept, ridge=1e-6)
        composer.erase(*names)
        changes.append(change_of_readers(tiny, base))
        composer.close()
    assert (changes[0] - changes[1]).norm() < 1e-2 * changes[0].norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solve": "jiont"}, "unknown solve 'jiont'; did you mean 'joint'"),
        ({"keep_weight": math.nan}, "keep_weight is nan, give 0 or more"),
        ({"ridge": -1.0}, "ridge is -1.0"),
    ],
)
def test_bad_options_are_refused(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        Composer(tiny, {}, **options)


def test_a_singular_solve_says_what_to_do(tiny):
    singular = Composer(tiny, increments_of(tiny), solve="joint", ridge=0.0)
    with pytest.raises(ValueError, match="singular with ridge 0.0: give a larger one"):
        singular.erase("dali")


def test_crosstalk_is_what_an_increment_does_to_others_tokens_and_to_what_is_kept(tiny):
    increments = {n: i for n, i in increments_of(tiny).items() if n != "nudity"}
    composer = Composer(tiny, increments, keep=KeepList.of(tiny, [A_DOG, BY_DALI], ["dali"]))
    here = tiny.parameters()
    frozen = torch.cat([here[name].detach().clone() for name in sorted(tiny.readers)]).double()
    composer.erase("monet")  # it is the base's weights that count
    table = composer.crosstalk()

    expected_kept = {"dali": ["", "a dog"], "monet": ["", "a dog", "a church by dali"]}
    for concept, listed in expected_kept.items():
        delta = stacked(tiny, increments[concept])
        columns = {
            "(kept)": tiny.tokens(listed).double(),
            "van gogh": factor_of(increments["van gogh"]).T,
        }
        for column, tokens in columns.items():
            expected = (delta @ tokens.T).norm() / (frozen @ tokens.T).norm()
            assert table[concept][column] == pytest.approx(expected.item(), rel=1e-4)
