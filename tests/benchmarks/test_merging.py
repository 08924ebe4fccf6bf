"""Ways to merge, beside small references that share no code with them."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compositions import assert_bits, random_increment, snapshot

from multierase import KeepList, erase

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONCEPTS = ("dali", "monet", "van gogh")


@pytest.fixture
def merging(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("merging")
    sys.modules.pop("merging", None)


@pytest.fixture
def increments(tiny):
    """Three of keys and values, the last in factors."""
    return [
        random_increment(tiny, name, "esd-x-strict", seed, factored=name == "van gogh")
        for seed, name in enumerate(CONCEPTS)
    ]


@pytest.fixture
def kept(tiny):
    return {"tokens": KeepList.of(tiny, [], CONCEPTS).gram("tokens", CONCEPTS)}


def arrays(increments):
    """Yield each parameter's deltas ``(n, out, in)`` in float64."""
    for name in increments[0].deltas:
        yield name, np.stack([one.dense(name).double().numpy() for one in increments])


def test_sums_are_sums(merging, increments, kept):
    for way, scale in (("sum", 1), ("task arithmetic, 0.3", 0.3), ("task arithmetic, 0.6", 0.6)):
        merged = merging.WAYS[way].merge(increments, kept)
        for name, stack in arrays(increments):
            np.testing.assert_allclose(merged[name], scale * stack.sum(0), atol=1e-7)


def test_ties_trims_elects_and_takes_the_mean_of_what_agrees(merging, increments, kept):
    scale, share = merging.TIES_SETTINGS[3]
    merged = merging.WAYS["TIES"].merge(increments, kept)

    for name, stack in arrays(increments):
        left = np.zeros_like(stack)
        for one, out in zip(stack, left, strict=True):
            order = np.argsort(-np.abs(one).ravel(), kind="stable")[: int(share * one.size)]
            out.ravel()[order] = one.ravel()[order]
        expected = np.zeros(stack.shape[1:])
        for place in np.ndindex(expected.shape):
            numbers = left[(slice(None), *place)]
            agreeing = [x for x in numbers if x and np.sign(x) == np.sign(numbers.sum())]
            expected[place] = scale * np.mean(agreeing) if agreeing else 0
        np.testing.assert_allclose(merged[name], expected, atol=1e-7)


def test_ties_has_the_published_numbers_of_every_set_of_nine(merging):
    assert set(merging.TIES_SETTINGS) >= set(range(1, 10))
    assert merging.TIES_SETTINGS[2] == (1.25, 0.8)
    assert merging.TIES_SETTINGS[9] == (2.25, 0.6)


def test_dare_drops_half_by_a_chance_of_each_increments_own(merging, increments, kept):
    alone = [merging.WAYS["DARE"].merge([one], kept) for one in increments]
    merged = merging.WAYS["DARE"].merge(increments, kept)
    shares = []
    for name, stack in arrays(increments):
        for found, own in zip(alone, stack, strict=True):
            stays = found[name].numpy() != 0
            shares.append(stays.mean())
            np.testing.assert_allclose(found[name], np.where(stays, 2 * own, 0), atol=1e-7)
        np.testing.assert_allclose(merged[name], sum(found[name] for found in alone), atol=1e-7)

    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("way", ["RegMean", "MACE's fusion"])
def test_a_regression_is_the_least_squares_solution(merging, increments, kept, way):
    """Rows are tokens: of RegMean also those that its smaller off-diagonal stands for."""
    merged = merging.WAYS[way].merge(increments, kept)
    names, stacks = zip(*arrays(increments), strict=True)
    for name, stack in zip(names, stacks, strict=True):
        rows, targets = [], []
        for one, delta in zip(increments, stack, strict=True):
            own = one.grams["tokens"].double().numpy().T
            if way == "RegMean":
                diagonal = np.diag(np.sqrt(0.1) * np.linalg.norm(own, axis=0))
                own = np.concatenate([np.sqrt(0.9) * own, diagonal])
            rows.append(own)
            targets.append(own @ delta.T)
        if way != "RegMean":
            squares, vectors = np.linalg.eigh(kept["tokens"].numpy())
            rows.append((vectors * np.sqrt(np.clip(squares, 0, None))).T)
            targets.append(np.zeros((len(squares), stack.shape[1])))
        rows, targets = np.concatenate(rows), np.concatenate(targets)

        # Of rows that do not span the space, what is asked of them is all that is decided.
        found = rows @ merged[name].double().numpy().T
        best = rows @ np.linalg.lstsq(rows, targets, rcond=1e-9)[0]
        np.testing.assert_allclose(found, best, atol=2e-3 * np.abs(best).max())


def test_iso_c_makes_all_directions_of_the_sum_as_strong_as_their_mean(merging, increments, kept):
    factored = increments[-1:]  # has two directions alone
    for some in (increments, factored):
        merged = merging.WAYS["Iso-C"].merge(some, kept)
        for name, stack in arrays(some):
            left, sizes, right = np.linalg.svd(stack.sum(0), full_matrices=False)
            rank = np.linalg.matrix_rank(stack.sum(0), tol=1e-5 * sizes[0])
            assert (rank == 2) == (some is factored)
            expected = left[:, :rank] @ right[:rank] * sizes[:rank].mean()
            np.testing.assert_allclose(merged[name], expected, atol=1e-5)


def test_every_way_has_a_paper_and_is_put_on_and_taken_off(merging, tiny, increments):
    keep = KeepList.of(tiny, [], CONCEPTS)
    library, before = dict(zip(CONCEPTS, increments, strict=True)), snapshot(tiny)
    for name, way in merging.WAYS.items():
        assert way.paper.startswith("https://arxiv.org/abs/")
        eraser = merging.Merged(tiny, library, name, keep=keep)
        deltas = eraser.deltas(["monet", "dali"])
        again = eraser.deltas(["dali", "monet"])
        with eraser.erasing("monet", "dali"):
            now = snapshot(tiny)
        for parameter, delta in deltas.items():
            assert torch.equal(delta, again[parameter])
            assert torch.equal(now[parameter], before[parameter] + delta)
        assert_bits(tiny, before)


def test_what_is_solved_anew_is_the_sum_where_each_was_solved_beside_the_other(merging, emoji):
    """UCE's system has the tokens of all that is erased or preserved: one for every set here."""
    before = snapshot(emoji)
    alone = [erase(emoji, name, method="uce") for name in ("Noto", "Twemoji")]
    anew = merging.Anew(emoji, "uce")
    one, both = anew.deltas(["Noto"]), anew.deltas(["Twemoji", "Noto"])

    for name, delta in alone[0].deltas.items():
        scale = delta.abs().max().item()
        torch.testing.assert_close(one[name], delta, atol=1e-5 * scale, rtol=0)
        total = delta + alone[1].deltas[name]
        torch.testing.assert_close(both[name], total, atol=1e-5 * scale, rtol=0)
    with anew.erasing("Noto"):
        now = snapshot(emoji)
    assert all(torch.equal(now[name], before[name] + delta) for name, delta in one.items())
    assert_bits(emoji, before)
