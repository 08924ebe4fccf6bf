"""The objectives against the papers' formulas, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multierase.training.objectives import (
    concept_correlation,
    erasure_degree,
    esd_target,
    l1_norm,
    l2_norm,
    squared_error,
)


@pytest.fixture
def eps():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, 8, 8, generator=generator) for _ in range(4)]


def test_esd_target_is_the_papers_equation_7(eps):
    anchor, concept, null, _ = (e.numpy() for e in eps)
    expected = np.empty_like(anchor)
    for index in np.ndindex(anchor.shape):  # element by element, from the paper's formula
        expected[index] = anchor[index] - 1.5 * (concept[index] - null[index])
    found = esd_target(*eps[:3], eta=1.5).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_authors_later_form_is_the_same_target(eps):
    _, concept, null, _ = eps
    eta = 1.0
    # Anchored at the concept, with a factor one larger.
    later = concept - (eta + 1) * (concept - null)
    torch.testing.assert_close(esd_target(null, concept, null, eta), later)


def test_erasure_degree_of_base_null_and_target(eps):
    _, concept, null, _ = eps
    assert erasure_degree(concept, concept, null).item() == pytest.approx(1)
    assert erasure_degree(null, concept, null).item() == pytest.approx(0)
    target = esd_target(null, concept, null, 0.7)
    assert erasure_degree(target, concept, null).item() == pytest.approx(-0.7, rel=1e-4)


def test_erasure_degree_against_numpy(eps):
    _, concept, null, student = (e.numpy().ravel() for e in eps)
    expected = np.dot(student - null, concept - null) / np.dot(concept - null, concept - null)
    assert erasure_degree(eps[3], eps[1], eps[2]).item() == pytest.approx(expected, rel=1e-4)


def test_squared_error_and_norms_against_numpy(eps):
    a, b = eps[:2]
    error = ((a.numpy() - b.numpy()) ** 2).mean()
    assert squared_error(a, b).item() == pytest.approx(error, rel=1e-5)
    both = np.stack([a.numpy(), b.numpy()])
    assert l1_norm([a, b]).item() == pytest.approx(np.abs(both).sum() / 2, rel=1e-5)
    assert l2_norm([a, b]).item() == pytest.approx((both**2).sum() / 2, rel=1e-5)


def test_concept_correlation_against_numpy(eps):
    student, student_null, concept, null = eps[3], eps[0], eps[1], eps[2]
    expected = ((student - student_null).numpy() * (concept - null).numpy()).mean()
    found = concept_correlation(student, student_null, concept, null).item()
    assert found == pytest.approx(expected, rel=1e-4)
    # With the empty prompt left alone it is the erasure degree in other units.
    scale = (concept - null).square().mean().item()
    assert concept_correlation(student, null, concept, null).item() == pytest.approx(
        erasure_degree(student, concept, null).item() * scale, rel=1e-4
    )
