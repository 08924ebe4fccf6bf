"""Compressing: the stated error is the measured one, and as small a file as that allows."""

from __future__ import annotations

import pytest
import torch
from making import A, B, C, assert_close, lost, make, of_matrices

from multierase import Increment
from multierase.increments.compression import _stack, compress
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Provenance
from multierase.increments.value import Factors, gram_factor

K = [f"unet.block.{i}.attn2.to_{which}.weight" for i in range(4) for which in "kv"]


def of_keys_and_values() -> Increment:
    """Make keys and values of four layers: twelve directions of 24, less and less of each."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(40, 24, generator=generator) for name in K}
    basis = torch.randn(12, 24, generator=generator) * torch.logspace(0, -3, 12)[:, None]
    deltas = {name: torch.randn(40, 12, generator=generator) @ basis for name in K}
    base = Fingerprint.of("base", "stable-diffusion", weights)

    return Increment(deltas, base, Provenance("c"), readers=dict.fromkeys(K, "tokens"))


def apart(factored: bool) -> Increment:
    """Make two matrices with inputs of their own, the first ten times the second."""
    generator = torch.Generator().manual_seed(0)
    fall = torch.logspace(0, -3, 24)
    deltas = {}
    for name, scale in (("unet.a", 10), ("unet.b", 1)):
        factors = Factors(torch.randn(32, 24, generator=generator) * fall * scale, torch.eye(24))
        deltas[name] = factors if factored else factors.dense()

    return of_matrices(deltas, grams={"tokens": torch.randn(10, 4, generator=generator)})


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("error", [0.3, 0.05])
def test_no_more_is_lost_than_is_said_and_the_least_room_is_taken_for_it(factored, error):
    whole = apart(factored)
    small = compress(whole, error)

    assert small.history[-1]["error"] == pytest.approx(lost(whole, small), rel=1e-3)
    assert 0.5 * error < lost(whole, small) <= error
    ranks = {name: delta.up.shape[1] for name, delta in small.deltas.items()}
    assert 1 <= ranks["unet.b"] < ranks["unet.a"] < 24  # one height for all
    for delta in small.deltas.values():
        for part in (delta.up, delta.down):
            assert torch.equal(part, part.half().float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_readers_of_one_stream_share_what_reads_it_and_no_basis_loses_less(dtype):
    whole = of_keys_and_values()
    small = compress(whole, 0.05, dtype)
    downs = {id(delta.down) for delta in small.deltas.values()}
    assert len(downs) == 1

    # Eckart-Young: no other basis of that many directions loses less of the stacked matrix.
    rank = next(iter(small.deltas.values())).down.shape[0]
    scales = torch.linalg.svdvals(torch.cat(list(whole.deltas.values())).double())
    least = {
        kept: (scales[kept:].square().sum() / scales.square().sum()).sqrt().item()
        for kept in (rank - 1, rank)
    }
    assert least[rank] <= 0.05 < least[rank - 1]
    assert small.history[-1]["error"] == pytest.approx(least[rank], abs=1e-3)


@pytest.mark.parametrize("error", [0.3, 0.05, 0.02])
def test_int8_factors_are_whole_numbers_within_the_stated_error(error):
    whole = of_keys_and_values()
    small = compress(whole, error, torch.int8)

    assert 0 < lost(whole, small) <= error
    assert small.history[-1]["error"] == pytest.approx(lost(whole, small), rel=1e-3)
    for delta in small.deltas.values():
        assert torch.equal(delta.up, delta.up.to(torch.int8).float())
        assert delta.up.abs().max() <= 127
    # Each column's largest entry over all parameters takes the whole range.
    assert torch.equal(
        torch.cat([delta.up for delta in small.deltas.values()]).abs().amax(0),
        torch.full((small.deltas[K[0]].up.shape[1],), 127.0),
    )


def test_what_rounding_loses_comes_off_what_may_be_cut():
    whole = of_keys_and_values()
    exact = compress(whole, 0.02, torch.float32).deltas[K[0]].down.shape[0]
    rounded = compress(whole, 0.02, torch.int8).deltas[K[0]].down.shape[0]
    assert rounded >= exact


def test_vectors_and_convolutions_are_only_rounded():
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(7, generator=generator)
    kernel = torch.randn(3, 2, 3, 3, generator=generator)
    small = compress(of_matrices({"unet.bias": vector, "unet.conv": kernel}), 0.1, torch.int8)
    assert torch.equal(small.deltas["unet.bias"], vector.half().float())
    assert torch.equal(small.deltas["unet.conv"], kernel.half().float())


def test_a_gram_factor_loses_its_small_directions():
    directions = torch.linalg.qr(torch.randn(10, 3, generator=torch.Generator().manual_seed(0))).Q
    whole = make(shape=(12, 10), names=(A, B), factored=(A, B))
    gram = directions * torch.tensor([1.0, 0.5, 0.01])
    whole = Increment(whole.deltas, whole.base, whole.provenance, {"tokens": gram}, whole.readers)

    cut = compress(whole, 0.1).grams["tokens"]
    assert cut.shape == (10, 2)
    torch.testing.assert_close(cut @ cut.T, gram[:, :2] @ gram[:, :2].T, rtol=2e-3, atol=2e-3)
    assert torch.equal(cut, cut.half().float())


def test_the_history_says_what_was_done_and_arithmetic_ends_it():
    small = compress(make(shape=(64, 48)), 0.2, torch.int8)
    assert small.history == (
        {
            "step": "compressed",
            "error": pytest.approx(lost(make(shape=(64, 48)), small), rel=1e-3),
            "allowed": 0.2,
            "dtype": "int8",
        },
    )
    assert [step["step"] for step in (0.3 * small).history] == ["compressed", "scaled"]


@pytest.mark.parametrize("error", [-0.1, 1.0, float("nan"), float("inf")])
def test_an_error_that_is_no_share_is_refused(error):
    with pytest.raises(ValueError, match="give a share"):
        compress(make(), error)


def test_a_precision_that_loses_more_than_is_allowed_is_refused():
    with pytest.raises(ValueError, match="float16 alone loses .* allow more, or keep float32"):
        compress(make(), 1e-6)
    with pytest.raises(ValueError, match="int8 alone loses"):
        compress(of_keys_and_values(), 1e-4, torch.int8)

    exact = compress(make(), 1e-6, torch.float32)
    assert_close(exact, make())
    assert exact.history[-1]["error"] <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int32])
def test_a_dtype_that_no_file_has_is_refused(dtype):
    with pytest.raises(ValueError, match="cannot store .*give one of .*'int8'"):
        compress(make(), 0.1, dtype)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="is not finite"):
        compress(of_matrices({A: torch.full((3, 3), value)}), 0.1)


@pytest.mark.parametrize("scale", [1e20, 1e35])
def test_numbers_beyond_the_precision_are_refused(scale):
    huge = of_matrices({A: Factors(torch.full((3, 2), scale), torch.full((2, 3), scale))})
    with pytest.raises(ValueError, match="alone loses"):
        compress(huge, 0.1)


def test_an_increment_of_zeros_stays_one():
    small = compress(of_matrices({A: torch.zeros(30, 20), C: torch.zeros(5)}), 0.1)
    assert small.history[-1]["error"] == 0
    assert small.norm() == 0


def test_a_wide_layer_is_cut_as_a_narrow_one_is():
    """The square of 200,000 inputs would take 300 GB."""
    generator = torch.Generator().manual_seed(0)
    narrow = torch.randn(6, 40, generator=generator) * torch.logspace(0, -2, 6)[:, None]
    wide = torch.zeros(6, 200_000)
    wide[:, ::5000] = narrow
    cut = {
        name: compress(of_matrices({"unet.a": delta}), 0.1, torch.float32)
        for name, delta in (("narrow", narrow), ("wide", wide))
    }
    torch.testing.assert_close(
        cut["wide"].dense("unet.a")[:, ::5000], cut["narrow"].dense("unet.a"), rtol=1e-4, atol=1e-4
    )

    factors = of_matrices({"unet.a": Factors(torch.ones(20_000, 1), torch.ones(1, 1000))})
    assert compress(factors, 0.1).history[-1]["error"] < 1e-3


def test_the_singular_values_of_a_wide_stack_are_those_of_its_matrix():
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(9, 3, generator=generator), torch.randn(3, 5000, generator=generator)
    mixed = of_matrices({A: Factors(up, down), B: torch.randn(4, 5000, generator=generator)})
    stack = _stack(mixed, [A, B])

    whole = torch.cat([mixed.dense(A), mixed.dense(B)]).double()
    scales = torch.linalg.svdvals(whole)[:7]
    torch.testing.assert_close(stack.squares.sqrt(), scales, rtol=1e-5, atol=1e-6)
    assert stack.cost == 13 + 5000
    along = (whole @ stack.vectors).norm(dim=0)
    torch.testing.assert_close(along, scales, rtol=1e-5, atol=1e-6)


def test_gram_factor_is_cut_at_the_given_share():
    tokens = torch.diag(torch.tensor([1.0, 0.1, 0.01]))
    assert gram_factor(tokens, tolerance=0.05).shape == (3, 2)
