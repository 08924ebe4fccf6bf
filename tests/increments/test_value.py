"""The laws of the value."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import NAMES, A, B, C, assert_close, make, of_matrices

from multierase import Increment, Library
from multierase.errors import AlreadyThere
from multierase.increments.provenance import Provenance, Stop
from multierase.increments.value import Factors, gram_factor, squared_norm

STOP = Stop("erased", 44, 0.01, (1.0, 0.01))

subsets = st.sets(st.sampled_from(NAMES), min_size=1).map(sorted)
increments = st.builds(
    make,
    concept=st.sampled_from(["a", "b", "c"]),
    seed=st.integers(0, 5),
    names=subsets,
    factored=st.sets(st.sampled_from(NAMES)),
)
numbers = st.floats(-3, 3, allow_subnormal=False)
quickly = settings(max_examples=30, deadline=None, derandomize=True)


@quickly
@given(increments, increments)
def test_addition_is_commutative(a, b):
    assert_close(a + b, b + a)


@quickly
@given(increments, increments, increments)
def test_addition_is_associative(a, b, c):
    assert_close((a + b) + c, a + (b + c))


@quickly
@given(increments, increments, numbers)
def test_a_multiple_of_a_sum_is_the_sum_of_multiples(a, b, s):
    assert_close(s * (a + b), s * a + s * b, tolerance=1e-4)


@quickly
@given(increments)
def test_subtraction_and_negation_undo(a):
    zero = a - a
    for name in a.deltas:
        assert zero.dense(name).abs().max() < 1e-5

    assert_close(-(-a), a, tolerance=0)
    assert_close(a - a, 0 * a)


@quickly
@given(st.lists(increments, min_size=1, max_size=4))
def test_the_built_in_sum_is_addition(several):
    assert sum(several) == functools.reduce(Increment.__add__, several)


@quickly
@given(increments, numbers)
def test_the_norm_is_that_of_the_dense_matrices(a, s):
    whole = torch.cat([(s * a).dense(name).double().flatten() for name in a.deltas])
    assert (s * a).norm() == pytest.approx(whole.norm().item(), rel=1e-5, abs=1e-12)


def test_identity_is_the_very_same_value():
    a = make()
    assert 1 * a is a
    assert 1.0 * a is a
    assert 0 + a is a


def test_addition_is_of_products_never_of_factors():
    a = make("a", 1, factored=NAMES)
    b = make("b", 2, factored=NAMES)
    total = a + b
    for name in (A, C):
        assert isinstance(total.deltas[name], Factors)
        product = a.deltas[name].up @ a.deltas[name].down + b.deltas[name].up @ b.deltas[name].down
        torch.testing.assert_close(total.dense(name), product)


def test_factors_that_would_be_larger_than_the_matrix_become_one():
    several = [make("a", seed, factored=NAMES, rank=4) for seed in range(4)]
    total = sum(several)
    assert isinstance(total.deltas[A], torch.Tensor)
    expected = sum(increment.dense(A).double() for increment in several)
    torch.testing.assert_close(total.dense(A), expected.float(), rtol=1e-5, atol=1e-5)


def test_addition_is_over_the_union_of_parameters():
    a, b = make("a", 1, names=(A,)), make("b", 2, names=(B, C))
    total = a + b

    assert list(total.deltas) == sorted(NAMES)
    assert torch.equal(total.dense(A), a.dense(A))
    assert torch.equal(total.dense(C), b.dense(C))
    assert total.base.digests == {**a.base.digests, **b.base.digests}
    assert total.readers == {A: "tokens", B: "tokens"}


def test_a_sum_knows_the_tokens_of_both_or_none():
    a, b = make("a", 1), make("b", 2)
    gram = (a + b).grams["tokens"]
    both = a.grams["tokens"] @ a.grams["tokens"].T + b.grams["tokens"] @ b.grams["tokens"].T
    torch.testing.assert_close(gram @ gram.T, both)
    assert gram.shape[1] == 1  # the second concept's tokens bring no direction

    without = of_matrices({A: torch.ones(12, 10)})
    without = Increment(without.deltas, make(names=(A,)).base, Provenance("w"), {}, {A: "tokens"})
    assert (a + without).grams == {}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"base": "other"}, "different bases: 'a' is of 'base', 'b' of 'other'"),
        ({"base_seed": 5}, f"different bases.*parameters that differ: \\['{C}"),
    ],
)
def test_another_base_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        make("a", 1) + make("b", 2, **other)


def test_another_shape_is_refused_by_name():
    a = make("a", 1, names=(A,))
    b = Increment({A: torch.ones(3, 4)}, a.base, Provenance("b"))
    with pytest.raises(ValueError, match=rf"{A}: shape \(12, 10\) in 'a', \(3, 4\) in 'b'"):
        a + b


@pytest.mark.parametrize("wrong", ["2", None, True, torch.tensor(2.0), make()])
def test_only_numbers_multiply(wrong):
    with pytest.raises(TypeError):
        make() * wrong


@pytest.mark.parametrize("wrong", [1, 0.0, None, "x"])
def test_only_increments_are_added(wrong):
    with pytest.raises(TypeError):
        make() + wrong
    with pytest.raises(TypeError):
        make() - wrong


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf")])
def test_only_finite_numbers_multiply(factor):
    with pytest.raises(ValueError, match="cannot scale increment 'Van Gogh' by .*finite"):
        make() * factor


def test_equal_increments_are_equal_and_hash_alike():
    assert make() == make()
    assert hash(make()) == hash(make())
    assert len({make(), make(), make(seed=2)}) == 2


@pytest.mark.parametrize(
    "other",
    [
        make(seed=2),
        make("Dalí"),
        make(names=(A,)),
        make(base="other"),
        make(base_seed=1),
        make(factored=NAMES),
        make(stop=STOP),
        2 * make(),
        make().named("Van Gogh"),
    ],
    ids=["numbers", "name", "parameters", "base", "weights", "form", "stop", "scale", "history"],
)
def test_whatever_differs_makes_increments_unequal(other):
    assert make() != other


def test_one_bit_makes_increments_unequal():
    a, b = make(), copy.copy(make())
    delta = b.deltas[A].clone()
    delta.view(torch.int32)[0, 0] ^= 1
    assert Increment({**b.deltas, A: delta}, b.base, b.provenance, b.grams, b.readers) != a


def test_an_increment_equals_nothing_else():
    assert make() != 0
    assert make() != "Van Gogh"


def test_what_is_not_true_of_a_multiple_is_not_said_of_it():
    a = make()
    a = Increment(
        a.deltas,
        a.base,
        Provenance(
            "Van Gogh", ("Van Gogh",), ("",), method="esd", scope="esd-x", seed=7, stop=STOP
        ),
        a.grams,
        a.readers,
    )
    scaled = (-2 * a).provenance

    assert scaled.concept == "-2 × Van Gogh"
    assert (scaled.method, scaled.seed, scaled.stop, scaled.cost) == (
        "arithmetic",
        None,
        None,
        None,
    )
    assert (scaled.prompts, scaled.contexts, scaled.scope) == (("Van Gogh",), ("",), "esd-x")
    assert (-2 * a).history == ({"step": "scaled", "by": -2.0, "of": "Van Gogh"},)


def test_history_tells_every_step_in_order():
    a, b = make("a"), make("b", 2)
    total = (2 * a + b).named("both")

    assert total.concept == "both"
    assert [step["step"] for step in total.history] == ["scaled", "summed", "renamed"]
    assert total.history[1]["of"] == ["2 × a", "b"]
    assert total.history[2]["from"] == "2 × a + b"


def test_a_sum_says_its_scope_only_if_both_have_it():
    a, b, c = make("a", scope="esd-x"), make("b", 2, scope="esd-x"), make("c", 3, scope="full")
    assert (a + b).provenance.scope == "esd-x"
    assert (a + c).provenance.scope == ""


def test_saving_a_multiple_leaves_the_original(tmp_path):
    library = Library(tmp_path)
    original = library.save(make("Noto")).read_bytes()
    for other in (
        -2 * make("Noto"),
        -make("Noto"),
        0.5 * make("Noto"),
        make("Noto") + make("Noto"),
    ):
        library.save(other)
        library.save(other, overwrite=True)

    assert library.path("Noto").read_bytes() == original
    assert sorted(library) == ["-1 × Noto", "-2 × Noto", "0.5 × Noto", "Noto", "Noto + Noto"]
    with pytest.raises(AlreadyThere, match="'Noto' is in library .* already"):
        library.save((-2 * make("Noto")).named("Noto"))


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\\b", "a\n", "\x1b[31m", "x" * 201, " a", 3])
def test_a_name_that_cannot_be_a_concepts_is_refused(name):
    with pytest.raises(ValueError, match=r"name|concept"):
        make().named(name)


def test_values_are_immutable():
    a = make()
    for mapping in (a.deltas, a.grams, a.readers):
        with pytest.raises(TypeError):
            mapping[A] = torch.zeros(1)
    with pytest.raises(AttributeError):
        a.grams = {}


def test_arithmetic_leaves_its_operands():
    a, b = make("a", factored=NAMES), make("b", 2, factored=(A,))
    before = copy.deepcopy([dict(a._tensors()), dict(b._tensors())])
    a + b, 3 * a, -a, a - b, sum([a, b, a])
    for tensors, old in zip([a._tensors(), b._tensors()], before, strict=True):
        assert all(torch.equal(tensors[name], old[name]) for name in old)


def test_parts_that_do_not_belong_together_are_refused():
    a = make(names=(A,))
    with pytest.raises(ValueError, match="do not name the same parameters.*attn1"):
        Increment({**a.deltas, C: torch.ones(2, 2)}, a.base, a.provenance)
    with pytest.raises(ValueError, match="readers that the increment does not change"):
        Increment(a.deltas, a.base, a.provenance, readers={B: "tokens"})


def test_the_norm_of_huge_factors_is_found_without_their_product():
    tall = Factors(torch.ones(30_000, 1), torch.ones(1, 4_000))
    assert squared_norm(tall) == pytest.approx(30_000 * 4_000)
    assert squared_norm(Factors(torch.full((2, 1), 1e20), torch.full((1, 2), 1e20))) == (
        pytest.approx(4e80)
    )


def test_gram_factor_has_the_rank_of_the_tokens():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(5, 3, generator=generator) @ torch.randn(3, 10, generator=generator)
    factor = gram_factor(tokens)
    assert factor.shape == (10, 3)
    torch.testing.assert_close(factor @ factor.T, tokens.T @ tokens, rtol=1e-4, atol=1e-4)
    assert torch.equal(gram_factor(torch.zeros(4, 6)), torch.zeros(6, 1))
