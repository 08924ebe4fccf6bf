"""Directions that move a concept and leave what is kept, against plain linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multierase.errors import ConceptRefused
from multierase.separation import directions as module
from multierase.separation.directions import compact, directions, gram

OPTIONS = {"tolerance": 1e-3, "ridge": 1e-2}


@pytest.fixture
def tokens():
    """Six of the concept and seven others, two of them the same."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(2, 32, generator=generator)
    own, other = (torch.randn(n, 32, generator=generator) for n in (4, 5))
    return torch.cat([shared, own]), torch.cat([shared, other])


def test_directions_are_blind_to_what_is_kept_exactly(tokens):
    own, exact = tokens
    basis = directions(own, exact, None, **OPTIONS).basis
    assert basis.shape == (32, 4)  # six own tokens, two of them kept
    assert (exact @ basis).abs().max() < 1e-4 * (own @ basis).abs().max()


def test_the_residual_is_what_is_left_beside_what_is_kept_exactly(tokens):
    own, exact = tokens
    left = own.double() - own.double() @ torch.linalg.pinv(exact.double()) @ exact.double()
    residual = directions(own, exact, None, **OPTIONS).residual
    assert residual == pytest.approx((left.norm() / own.double().norm()).item(), rel=1e-4)
    assert 0.3 < residual < 1


@pytest.mark.parametrize("listed", [False, True])
def test_rank_basis_and_residual_against_numpy(tokens, listed):
    """The right singular vectors of the concept's tokens in the metric of what is kept."""
    own, exact = (rows.double().numpy() for rows in tokens)
    rich = np.random.default_rng(0).normal(size=(200, 32)) * np.logspace(0, -2, 32)
    ridge = 1e-2

    _, _, rows = np.linalg.svd(exact, full_matrices=True)
    nullspace = rows[np.linalg.matrix_rank(exact) :].T  # (d, d - rank)
    covariance = rich.T @ rich / np.trace(rich.T @ rich) * 32
    within = nullspace.T @ covariance @ nullspace + ridge * np.eye(nullspace.shape[1])
    values, vectors = np.linalg.eigh(within if listed else np.eye(nullspace.shape[1]))
    metric = nullspace @ vectors @ np.diag(values**-0.5) @ vectors.T @ nullspace.T
    _, sizes, right = np.linalg.svd(own @ metric)
    rank, tolerance = 2, (sizes[1] + sizes[2]) / 2 / sizes[0]  # it cuts two of four
    columns = metric @ right[:rank].T * sizes[:rank] * np.sqrt(len(own)) / sizes[0] ** 2
    residual = np.linalg.norm(own @ nullspace) / np.linalg.norm(own)

    kept = gram(torch.from_numpy(rich)) if listed else None
    found = directions(*tokens, kept, tolerance=tolerance, ridge=ridge)
    assert found.rank == rank
    assert found.residual == pytest.approx(residual, rel=1e-6)
    signs = np.sign((columns * found.basis.numpy()).sum(axis=0))
    np.testing.assert_allclose(found.basis, columns * signs, rtol=1e-3, atol=1e-5)


def test_what_is_the_concepts_own_is_within_reach(tokens):
    own, exact = tokens
    basis = directions(own, exact, None, **OPTIONS).basis.double()
    left = own.double() - own.double() @ torch.linalg.pinv(exact.double()) @ exact.double()
    reached = left @ basis @ torch.linalg.pinv(basis)
    torch.testing.assert_close(reached, left, atol=1e-4, rtol=0)


def test_a_rich_list_is_disturbed_less_than_without_it(tokens):
    own, exact = tokens
    generator = torch.Generator().manual_seed(1)
    # It spans everything, unevenly.
    rich = torch.randn(500, 32, generator=generator) * torch.logspace(0, -2, 32)
    disturbance = []
    for kept in (None, gram(rich)):
        basis = directions(own, exact[:1], kept, **OPTIONS).basis
        along = (own @ basis).norm(dim=0)
        disturbance.append((rich @ basis).norm(dim=0)[0] / along[0])
    assert disturbance[1] < 0.3 * disturbance[0]


def test_the_first_direction_moves_the_concept_by_one(tokens):
    own, exact = tokens
    for kept in (None, gram(exact)):
        moved = own @ directions(own, exact, kept, **OPTIONS).basis[:, 0]
        assert moved.square().mean().sqrt() == pytest.approx(1, rel=1e-3)


def test_a_direction_is_as_long_as_it_is_the_concepts_own(tokens):
    """Against a rich list, steps of one size must move the concept more than the list."""
    own, exact = tokens
    rich = torch.randn(500, 32, generator=torch.Generator().manual_seed(1))
    basis = directions(own, exact[:1], gram(rich), **OPTIONS).basis
    moved, disturbed = ((tokens @ basis).square().mean(dim=0).sqrt() for tokens in (own, rich))
    torch.testing.assert_close(
        moved, disturbed.square() * moved[0] / disturbed[0].square(), rtol=0.15, atol=0.05
    )
    assert (moved / disturbed).diff().max() < 0.05  # falling: the concept's own directions first


def test_a_concept_that_says_nothing_of_its_own_is_refused(tokens):
    own, exact = tokens
    for kept in (None, gram(exact)):
        with pytest.raises(ConceptRefused, match="nothing is left to erase it by"):
            directions(own[:2], exact, kept, **OPTIONS)


def test_very_many_tokens_have_the_same_directions(tokens, monkeypatch):
    own, exact = (rows.repeat(20, 1) for rows in tokens)
    kept = gram(torch.randn(50, 32, generator=torch.Generator().manual_seed(1)))
    plain = directions(own, exact, kept, **OPTIONS)
    monkeypatch.setattr(module, "MANY", 100)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    few = directions(own, exact, kept, **OPTIONS)
    assert few.residual == pytest.approx(plain.residual, rel=1e-6)
    # A direction's sign is free.
    torch.testing.assert_close(few.basis @ few.basis.T, plain.basis @ plain.basis.T)


def test_few_rows_stand_for_many(tokens, monkeypatch):
    many = tokens[0].repeat(20, 1)
    assert torch.equal(compact(many), many.double())
    monkeypatch.setattr(module, "MANY", 100)
    rows = compact(many)
    assert rows.shape == (32, 32)
    torch.testing.assert_close(rows.T @ rows, many.double().T @ many.double())
    assert torch.equal(compact(tokens[0][:3]), tokens[0][:3].double())
