"""Closed forms against plain numpy, and what they promise of tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from multierase import Concept, erase, erase_several
from multierase.errors import ConceptRefused, UsageError
from multierase.methods import METHODS, Order, Refusal, mace, oce, rece, speed
from multierase.methods import double_projection as dp
from multierase.methods.closed import Edit

CLOSED = sorted(name for name, method in METHODS.items() if not method.trains)
CONCEPT = Concept("Noto", ("a church by Noto", "Noto"), ("a church", ""))
KEPT = ("a cat", "a hat by Twemoji")


@pytest.fixture
def settings(quick):
    return dataclasses.replace(quick, keep=KEPT, known=False)


def from_last_word(model, prompt):
    """Return tokens ``(n, d)``, found by the number of tokens alone; begin and end are counted."""
    tokens = model.tokens([prompt]).double().numpy()

    return tokens[max(model.token_count(prompt) - 2, 0) :]


def pairs(model, rows=slice(None)):
    """Return the concept's tokens from the last word on, and the context's, as numpy has them."""
    old, new = [], []
    for prompt, context in zip(CONCEPT.prompts, CONCEPT.contexts, strict=True):
        ours, theirs = from_last_word(model, prompt), from_last_word(model, context)
        count = min(len(ours), len(theirs))
        old.append(ours[:count][rows])
        new.append(theirs[:count][rows])

    return np.concatenate(old), np.concatenate(new)


def kept(model, rows=slice(None)):
    return np.concatenate([from_last_word(model, prompt)[rows] for prompt in KEPT])


def weights(model, names):
    here = model.parameters()

    return {name: here[name].detach().double().numpy() for name in names}


def same(increment, expected):
    for name, delta in expected.items():
        np.testing.assert_allclose(increment.dense(name), delta, rtol=2e-3, atol=1e-5)
    assert set(increment.deltas) == set(expected)


def values(model):
    return [name for name in model.readers if "to_v" in name]


def test_rece_is_uce_and_then_uce_of_what_was_missed(tiny, settings):
    """``W ← (λW + Σ W g cᵀ + μ Σ W p pᵀ)(λ + Σ c cᵀ + μ Σ p pᵀ)⁻¹``, for ``c`` and for ``c'``."""
    increment = erase(tiny, CONCEPT, settings, method="rece")

    base = weights(tiny, tiny.readers)
    (c, g), p = pairs(tiny), kept(tiny)
    identity = np.eye(c.shape[1])
    now, missed = base, c
    for turn in range(1 + rece.ROUNDS):
        if turn:
            ours = sum(now[name].T @ now[name] for name in base)
            cross = sum(now[name].T @ base[name] for name in base)
            missed = (np.linalg.inv(ours + rece.REGULARISER * identity) @ cross @ c.T).T
        right = rece.RIDGE * identity + missed.T @ missed + rece.PRESERVE * p.T @ p
        edited = {}
        for name, weight in now.items():
            left = rece.RIDGE * weight + weight @ g.T @ missed + rece.PRESERVE * weight @ p.T @ p
            edited[name] = left @ np.linalg.inv(right)
        now = edited

    same(increment, {name: now[name] - base[name] for name in base})


def test_what_rece_finds_says_to_the_edited_weights_what_the_concept_says_to_the_base():
    """``c' = argmin Σ ‖W_new c' − W c‖² + λ ‖c'‖²``, by numpy's least squares."""
    rng = np.random.default_rng(0)
    base, transfer = rng.normal(size=(3, 8, 5)), rng.normal(size=(5, 5))
    found = rece._adversary(
        torch.from_numpy(transfer), torch.from_numpy(sum(w.T @ w for w in base))
    )

    c = rng.normal(size=5)
    rows = np.concatenate([*(base @ transfer), np.sqrt(rece.REGULARISER) * np.eye(5)])
    wanted = np.concatenate([*(base @ c), np.zeros(5)])
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(found.numpy() @ c, expected, rtol=1e-8)


def test_mace_is_the_smallest_solution_of_its_least_squares(tiny, settings):
    """``min Σ ‖W'c − Wg‖² + μ Σ ‖W'p − Wp‖²`` over what is behind the words, without a ridge."""
    increment = erase(tiny, CONCEPT, settings, method="mace")

    (c, g), p = pairs(tiny, slice(1, None)), kept(tiny)
    rows = np.concatenate([c, np.sqrt(mace.PRIOR) * p])
    wanted = np.concatenate([g - c, np.zeros_like(p)])
    transfer = np.linalg.lstsq(rows, wanted, rcond=1e-6)[0].T
    base = weights(tiny, tiny.readers)
    same(increment, {name: weight @ transfer for name, weight in base.items()})


def test_speed_is_a_ridge_regression_among_what_it_may_change():
    """The constraints written as a basis: in ``P``'s range, and orthogonal to ``C₂``."""
    rng = np.random.default_rng(0)
    d, n = 12, 7
    old, new, invariant = rng.normal(size=(n, d)), rng.normal(size=(n, d)), rng.normal(size=(3, d))
    free = np.linalg.qr(rng.normal(size=(d, 8)))[0]
    gram, move = old.T @ old / n, (new - old).T @ old / n
    found = speed._edit(
        *(torch.from_numpy(each) for each in (gram, move, free @ free.T, invariant))
    )

    _, sizes, rows = np.linalg.svd(invariant @ free)
    basis = free @ rows[len(sizes) :].T
    inner = basis.T @ gram @ basis + speed.SCALE * np.eye(basis.shape[1])
    expected = move @ basis @ np.linalg.inv(inner) @ basis.T
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(found.numpy() @ invariant.T, 0, atol=1e-10)


def test_speed_projects_on_the_null_space_of_what_its_edit_would_move_most(monkeypatch):
    monkeypatch.setattr(speed, "COPIES", 0)  # without the augmentation, which is random
    rng = np.random.default_rng(0)
    tokens, moved = rng.normal(size=(9, 6)), rng.normal(size=(4, 6))
    chosen = speed._refined(
        torch.from_numpy(tokens), torch.eye(6).double(), torch.from_numpy(moved), torch.Generator()
    )
    norms = np.linalg.norm(tokens @ moved.T, axis=1)
    np.testing.assert_array_equal(chosen.numpy(), tokens[norms > norms.mean()])

    thin = tokens * np.array([1, 1, 1, 1e-3, 1e-3, 1e-3])
    free = speed._null_space(torch.from_numpy(thin)).numpy()
    assert np.linalg.matrix_rank(free) == 3
    np.testing.assert_allclose(free @ thin[0] / np.linalg.norm(thin[0]), 0, atol=1e-2)


def test_speeds_augmentation_moves_tokens_where_the_layer_hears_least():
    torch.manual_seed(0)
    tokens, weight = torch.randn(5, 6).double(), torch.randn(4, 6).double()
    refined = speed._refined(tokens, weight, weight, torch.Generator().manual_seed(0))
    first = len(speed._above_mean(tokens, weight))
    assert len(refined) > first
    least = torch.linalg.svd(weight, full_matrices=False).Vh[-1]
    for copy in refined[first:]:
        across = (copy - tokens) - ((copy - tokens) @ least)[:, None] * least
        assert across.norm(dim=1).min() < 1e-9  # it differs from one of them along that alone


def test_speed_leaves_the_first_token_and_all_keys_as_they_are(emoji, settings):
    increment = erase(emoji, "Noto", settings, method="speed")
    assert set(increment.deltas) == set(values(emoji))
    first = emoji.tokens([""])[0]
    for name in increment.deltas:
        delta = increment.dense(name)
        assert (delta @ first).norm() < 1e-4 * delta.norm() * first.norm()
    again = erase(emoji, "Noto", settings, method="speed")
    assert all(torch.equal(again.dense(name), increment.dense(name)) for name in again.deltas)
    assert increment.provenance.seed == settings.seed


def test_lloyds_algorithm_finds_groups_that_are_far_apart():
    places = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]).double()
    tokens = torch.cat([places[:1], *(place + 0.1 * torch.rand(4, 2) for place in places)])
    found = speed._invariant(tokens)
    means = tokens[1:].reshape(3, 4, 2).mean(1)
    assert torch.equal(found[0], tokens[0])
    assert torch.cdist(means, found[1:]).min(dim=1).values.max() < 1e-6
    assert torch.equal(speed._invariant(tokens[:1]), tokens[:1])


def test_oce_is_the_rotation_of_its_objective(tiny, settings):
    """``M = −α G(1 − G*) + β₁ Σ v vᵀ + β₂ W C Wᵀ + λ W Wᵀ``; ``M = U S Vᵀ``, ``P = U D Vᵀ``."""
    increment = erase(tiny, CONCEPT, settings, method="oce")

    # The sentence with the shortest context is "Noto", whose context is empty.
    c = from_last_word(tiny, "Noto")[0]
    g = tiny.tokens([""])[0].double().numpy()
    p, tokens = kept(tiny, slice(1)), kept(tiny)
    expected = {}
    for name, w in weights(tiny, values(tiny)).items():
        erased, guide = w @ c / np.linalg.norm(w @ c), w @ g / np.linalg.norm(w @ g)
        away = np.outer(erased, erased) @ (np.eye(len(w)) - np.outer(guide, guide))
        m = -oce.ERASE * away + oce.NAMED / len(p) * (w @ p.T) @ (w @ p.T).T
        m += oce.GENERAL / len(tokens) * (w @ tokens.T) @ (w @ tokens.T).T
        m += oce.RIDGE * w @ w.T
        u, _, vt = np.linalg.svd(m)
        signs = np.ones(len(w))
        signs[-1] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
        expected[name] = u @ np.diag(signs) @ vt @ w - w

    same(increment, expected)


def test_oce_keeps_every_angle_and_length(emoji, settings):
    increment = erase(emoji, "Noto", settings, method="oce")
    for name, w in weights(emoji, increment.deltas).items():
        turned = w + increment.dense(name).double().numpy()
        np.testing.assert_allclose(turned.T @ turned, w.T @ w, atol=1e-5 * np.linalg.norm(w.T @ w))


def test_a_double_projection_of_one_token_has_rank_one():
    """``Δ = W (c* − c) xᵀ/‖x‖² U₂ᵀ``, ``x = U₂ᵀ c``."""
    rng = np.random.default_rng(0)
    c, kept_rows, safe_rows = rng.normal(size=8), rng.normal(size=(3, 8)), rng.normal(size=(2, 8))
    safe, _ = dp._wide(torch.from_numpy(safe_rows), 1e-9)
    _, free = dp._wide(torch.from_numpy(kept_rows), 1e-9)
    found = dp._transfer(torch.from_numpy(c[None]), safe, free).numpy()

    null = np.linalg.svd(kept_rows)[2][3:].T
    x = null.T @ c
    star = safe_rows.T @ np.linalg.lstsq(safe_rows.T, c, rcond=None)[0]
    np.testing.assert_allclose(found, np.outer(star - c, null @ x) / (x @ x), atol=1e-10)
    np.testing.assert_allclose((np.eye(8) + found) @ c, star, atol=1e-10)
    np.testing.assert_allclose(found @ kept_rows.T, 0, atol=1e-10)


def test_a_double_projection_is_refused_where_everything_is_kept(tiny, settings, monkeypatch):
    with pytest.raises(ConceptRefused, match="keep fewer prompts"):
        dp._transfer(torch.ones(1, 4).double(), torch.eye(4).double(), torch.zeros(4, 0).double())

    monkeypatch.setattr(dp, "KEPT", 0.0)
    (result,) = METHODS["double-projection"].produce(tiny, Order([CONCEPT], settings))
    assert isinstance(result, Refusal)
    assert result.concept == "Noto"


# By method, the tokens that it edits, and the share of their way to the contexts' that may be left.
PROMISED = {
    "uce": ("tokens", 0.2),
    "rece": ("tokens", 0.4),
    "mace": ("behind", 1e-3),
    "speed": ("words", 0.3),
}


@pytest.mark.parametrize("method", PROMISED)
def test_a_concepts_tokens_say_what_the_contexts_say(emoji, quick, method):
    tokens, most = PROMISED[method]
    # Where nothing is to stay, what RECE edits last may move the concept's own tokens anywhere.
    known = method == "rece"
    concept = Concept("Noto").with_sentences(emoji.known_prompts) if known else CONCEPT
    increment = erase(emoji, concept, dataclasses.replace(quick, known=known), method=method)

    edit = Edit(emoji, concept, ())
    old, new = getattr(edit, tokens)("tokens")
    before = after = 0.0
    for name in increment.deltas:
        frozen = edit.weight(name)
        changed = frozen + increment.dense(name).double()
        before += ((old - new) @ frozen.T).square().sum().item()
        after += (old @ changed.T - new @ frozen.T).square().sum().item()
    assert after < most**2 * before


def test_an_anchor_takes_the_contexts_place(tiny, settings):
    anchored = dataclasses.replace(CONCEPT, anchor="a cat")
    edit = Edit(tiny, anchored, ())
    _, new = edit.words("tokens")
    expected = torch.from_numpy(from_last_word(tiny, "a cat")[:1])
    assert torch.equal(new, expected.expand(2, -1))
    increment = erase(tiny, anchored, settings, method="uce")
    assert increment.provenance.anchor == "a cat"
    assert increment.deltas.keys() == tiny.readers.keys()
    assert increment != erase(tiny, CONCEPT, settings, method="uce")


@pytest.mark.parametrize("method", CLOSED)
def test_what_a_closed_form_cannot_do_is_said_before_anything_is_computed(
    tiny, settings, method, monkeypatch
):
    monkeypatch.setattr(type(tiny), "spans", lambda *_: pytest.fail("it computes"))
    with pytest.raises(UsageError, match=r"the scope 'esd-x-strict'; given 'esd-u'"):
        erase(tiny, CONCEPT, dataclasses.replace(settings, scope="esd-u"), method=method)
    with pytest.raises(UsageError, match="leave --simultaneous out"):
        erase_several(tiny, ["Noto", "Twemoji"], settings, method=method, simultaneous=True)
    with pytest.raises(UsageError, match="cannot erase 'hat' from 'cowboy' alone"):
        erase(tiny, Concept("hat", erase_from="cowboy"), settings, method=method)
    with pytest.raises(ValueError, match="tokenizer cannot represent"):
        erase_several(tiny, ["Noto", "☃"], settings, method=method)


def test_the_exact_scope_may_be_named(tiny, settings):
    named = dataclasses.replace(settings, scope=tiny.exact_scope)
    assert erase(tiny, CONCEPT, named, method="uce").deltas.keys() == tiny.readers.keys()
