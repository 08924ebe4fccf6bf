import pytest
import torch

from multierase.base import Fingerprint
from multierase.increments import SCOPES, Factors, Increment, gram_factor, touched_parameters


def make(concept, seed, names=("a", "b"), factored=(), shape=(12, 10), base="base", base_seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.Generator().manual_seed(base_seed)
    deltas, frozen = {}, {}
    for name in ("a", "b", "c"):
        weight = torch.randn(shape, generator=weights)
        if name in names:
            frozen[name] = weight
            up, down = torch.randn(shape[0], 2, generator=generator), torch.randn(2, shape[1], generator=generator)
            deltas[name] = Factors(up, down) if name in factored else up @ down
    return Increment(deltas, Fingerprint.of(base, frozen), {"concept": concept}, torch.ones(10, 1))


def assert_same(left: Increment, right: Increment):
    assert left.deltas.keys() == right.deltas.keys()
    for name in left.deltas:
        torch.testing.assert_close(left.dense(name), right.dense(name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factored", [(), ("a",), ("a", "b")])
def test_algebra(factored):
    a, b, c = make("a", 1, factored=factored), make("b", 2, names=("b", "c")), make("c", 3, factored=("b",))
    assert_same(a + b, b + a)
    assert_same((a + b) + c, a + (b + c))
    assert_same(2 * (a + b), 2 * a + 2 * b)
    assert_same(a - a, 0 * a)
    assert_same(-(-a), a)
    assert_same(sum([a, b, c]), a + b + c)


def test_addition_is_of_products_never_of_factors():
    a, b = make("a", 1, factored=("a", "b")), make("b", 2, factored=("a", "b"))
    total = a + b
    for name in ("a", "b"):
        product = a.deltas[name].up @ a.deltas[name].down + b.deltas[name].up @ b.deltas[name].down
        torch.testing.assert_close(total.dense(name), product)


def test_addition_is_over_the_union_of_names():
    total = make("a", 1, names=("a",)) + make("b", 2, names=("b", "c"))
    assert list(total.deltas) == ["a", "b", "c"]
    assert total.gram.shape == (10, 2)


def test_another_base_or_shape_is_refused():
    with pytest.raises(ValueError, match="different bases.*'base'.*'other'"):
        make("a", 1) + make("b", 2, base="other")
    with pytest.raises(ValueError, match="different bases"):
        make("a", 1) + make("b", 2, base_seed=5)
    with pytest.raises(ValueError, match="finite"):
        make("a", 1) * float("nan")


def test_values_are_immutable():
    a = make("a", 1)
    with pytest.raises(TypeError):
        a.deltas["a"] = torch.zeros(1)
    with pytest.raises(AttributeError):
        a.gram = None


def test_factoring_is_exact_at_the_numerical_rank():
    dense = make("a", 1)
    factored = dense.factored()
    for name in dense.deltas:
        assert factored.deltas[name].up.shape == (12, 2)
        error = (factored.dense(name) - dense.dense(name)).norm() / dense.dense(name).norm()
        assert error < 2e-6
    assert isinstance(factored.densified().deltas["a"], torch.Tensor)


def test_full_rank_stays_dense():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, generator=generator)
    increment = Increment({"a": weight}, Fingerprint.of("base", {"a": weight}))
    assert isinstance(increment.factored().deltas["a"], torch.Tensor)


@pytest.mark.parametrize("factored", [(), ("a", "b")])
@pytest.mark.parametrize("error", [0.3, 0.05])
def test_compressing_loses_no_more_than_it_says_and_takes_the_least_room_for_it(factored, error):
    generator = torch.Generator().manual_seed(0)
    fall = torch.logspace(0, -3, 24)
    frozen = {name: torch.randn(32, 24, generator=generator) for name in ("a", "b")}
    factors = {
        n: Factors(torch.randn(32, 24, generator=generator) * fall * (1 + 9 * (n == "a")), torch.eye(24))
        for n in frozen
    }
    deltas = {name: f if name in factored else f.dense() for name, f in factors.items()}
    whole = Increment(deltas, Fingerprint.of("base", frozen), {"concept": "c"}, torch.randn(10, 4, generator=generator))
    small = whole.compressed(error)
    lost = sum((whole.dense(n) - small.dense(n)).square().sum() for n in whole.deltas) ** 0.5 / whole.norm()
    assert small.info["compression"]["error"] == pytest.approx(lost.item(), rel=1e-3)
    assert 0.5 * error < lost <= error
    ranks = {name: delta.up.shape[1] for name, delta in small.deltas.items()}
    assert 1 <= ranks["b"] < ranks["a"] < 24  # one height for all: the smaller matrix is cut the more
    assert all(torch.equal(part, part.half().float()) for d in small.deltas.values() for part in (d.up, d.down))
    assert "compression" not in (0.3 * small).info and "compression" not in small.densified().info


def of_keys_and_values():
    """Of four layers, twelve directions of 24, less and less of each."""
    generator = torch.Generator().manual_seed(0)
    names = [f"block.{i}.attn2.to_{which}.weight" for i in range(4) for which in "kv"]
    frozen = {name: torch.randn(40, 24, generator=generator) for name in names}
    basis = torch.randn(12, 24, generator=generator) * torch.logspace(0, -3, 12)[:, None]
    deltas = {name: torch.randn(40, 12, generator=generator) @ basis for name in names}
    return Increment(deltas, Fingerprint.of("base", frozen), {"concept": "c"})


def test_keys_and_values_are_compressed_together_and_share_what_reads_the_text():
    whole = of_keys_and_values()
    small = whole.compressed(0.05)
    downs = {id(delta.down) for delta in small.deltas.values()}
    assert len(downs) == 1
    # Eckart-Young: no other basis of that many directions loses less of the stacked matrix
    rank = next(iter(small.deltas.values())).down.shape[0]
    scales = torch.linalg.svdvals(torch.cat(list(whole.deltas.values())).double())
    least = lambda rank: (scales[rank:].square().sum() / scales.square().sum()).sqrt().item()  # noqa: E731
    assert least(rank) <= 0.05 < least(rank - 1)
    assert small.info["compression"]["error"] == pytest.approx(least(rank), abs=1e-3)


def test_int8_factors_are_whole_numbers_within_the_stated_error():
    whole = of_keys_and_values()
    for error in (0.3, 0.05, 0.02):
        small = whole.compressed(error, torch.int8)
        lost = sum((whole.dense(n) - small.dense(n)).square().sum() for n in whole.deltas) ** 0.5 / whole.norm()
        assert 0 < lost <= error and small.info["compression"]["error"] == pytest.approx(lost.item(), rel=1e-3)
        for delta in small.deltas.values():
            assert torch.equal(delta.up, delta.up.to(torch.int8).float()) and delta.up.abs().max() <= 127
    with pytest.raises(ValueError, match="allow more"):
        whole.compressed(1e-4, torch.int8)


def test_compressing_refuses_what_it_cannot_do():
    for error in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="give a share"):
            make("a", 1).compressed(error)
    with pytest.raises(ValueError, match="allow more, or keep float32"):
        make("a", 1).compressed(1e-6)
    exact = make("a", 1).compressed(1e-6, torch.float32)
    assert_same(exact, make("a", 1))
    assert exact.info["compression"]["error"] <= 1e-6


def test_gram_factor():
    tokens = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 10)
    factor = gram_factor(tokens)
    assert factor.shape == (10, 3)
    torch.testing.assert_close(factor @ factor.T, tokens.T @ tokens, rtol=1e-4, atol=1e-4)


def test_scopes_of_a_real_unet(tiny):
    names = {scope: set(touched_parameters(tiny.unet, scope)) for scope in SCOPES}
    assert names["esd-x-strict"] < names["esd-x"] < names["full"]
    assert names["esd-x"] | names["esd-u"] == names["full"]
    assert not names["esd-x"] & names["esd-u"]
    assert names["selfattn"] < names["esd-u"]
    assert all(".attn2.to_k.weight" in n or ".attn2.to_v.weight" in n for n in names["esd-x-strict"])
    assert len(names["esd-x"]) == 5 * len(names["esd-x-strict"]) / 2  # q, k, v, out and its bias
    assert not any("norm" in name for name in names["full"])


@pytest.mark.parametrize("wrong, near", [("xattn", "selfattn"), ("esdx", "esd-x"), ("ESD-X", "esd-x")])
def test_unknown_scopes_are_refused_with_the_nearest(tiny, wrong, near):
    with pytest.raises(ValueError, match=f"unknown scope '{wrong}'; did you mean '{near}'"):
        touched_parameters(tiny.unet, wrong)
