"""Fingerprints: the same weights up to a cast, and no others."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from multierase.increments.fingerprint import Fingerprint


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    return {
        "w": torch.randn(64, 48, generator=generator).to(dtype),
        "b": torch.randn(64, generator=generator).to(dtype),
    }


def of(tensors: dict[str, torch.Tensor]) -> Fingerprint:
    return Fingerprint.of("base", "stable-diffusion", tensors)


def test_the_numbers_are_those_of_the_specification():
    tensor = weights()["w"]
    flat = tensor.numpy().astype(np.float64).ravel()
    bits = (np.arange(flat.size, dtype=np.int64) * 2654435761 + 40503) >> 13
    signs = (bits & 1) * 2 - 1

    made = of({"w": tensor})
    assert made.digests["w"] == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]
    root_mean_square, projection = made.sketches["w"]
    assert root_mean_square == pytest.approx(np.sqrt((flat**2).mean()))
    assert projection == pytest.approx((flat * signs).sum() / np.sqrt(flat.size))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_is_the_same_base(dtype):
    assert of(weights()).differing(of(weights(dtype))) == []
    assert of(weights(dtype)).differing(of(weights())) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fine_tune_is_another(dtype):
    tuned = weights()
    tuned["w"] = tuned["w"] * 1.05
    cast = {name: tensor.to(dtype) for name, tensor in tuned.items()}
    assert of(weights()).differing(of(cast)) == ["w"]


def test_one_bit_is_another_base_of_the_same_precision():
    other = weights()
    other["b"].view(torch.int32)[3] ^= 1
    assert of(weights()).differing(of(other)) == ["b"]


def test_only_parameters_of_both_are_compared():
    assert of(weights()).differing(of({"c": torch.ones(3)})) == []


def test_the_union_has_the_parameters_of_either():
    both = of({"w": weights()["w"]}).union(of({"b": weights()["b"]}))
    assert both.digests == of(weights()).digests
    assert both.sketches == of(weights()).sketches


def test_the_coarsest_precision_is_noted():
    mixed = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.bfloat16)}
    assert of(mixed).dtype == "bfloat16"
