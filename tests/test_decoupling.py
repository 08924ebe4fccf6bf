import pytest
import torch

from multierase.decoupling import directions, gram


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(2, 32, generator=generator)
    return torch.cat([shared, torch.randn(4, 32, generator=generator)]), torch.cat(
        [shared, torch.randn(5, 32, generator=generator)]
    )


def test_directions_are_orthonormal_and_blind_to_what_is_kept(tokens):
    own, kept = tokens
    basis = directions(own, gram(kept), 1e-3)
    assert basis.shape == (32, 4)  # six own tokens, two of them kept ones
    torch.testing.assert_close(basis.T @ basis, torch.eye(4), atol=1e-5, rtol=0)
    assert (kept @ basis).abs().max() < 1e-4


def test_what_is_the_concepts_own_is_within_reach(tokens):
    own, kept = tokens
    basis = directions(own, gram(kept), 1e-3)
    left = own - own @ torch.linalg.pinv(kept) @ kept
    torch.testing.assert_close(left @ basis @ basis.T, left, atol=1e-4, rtol=0)


def test_a_concept_that_says_nothing_of_its_own_is_refused(tokens):
    own, _ = tokens
    with pytest.raises(ValueError, match="nothing is left to erase it by"):
        directions(own[:3], gram(own), 1e-3)
