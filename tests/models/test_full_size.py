"""The published sizes of every family: of its real configuration, without numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MB = 1e6


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("sizes") / "sizes.json"
    command = [sys.executable, ROOT / "benchmarks" / "family_sizes.py", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(out.read_text())["table"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "scope", "tensors", "megabytes"),
    [
        ("Stable Diffusion 1.4", "esd-x-strict", 32, 38.3),
        ("Stable Diffusion XL", "esd-x-strict", 140, 681.6),
        # The tokens' embedder, as published, and the pooled vector's first layer.
        ("FLUX.1 dev", "text-input", 2, 25.2 + 2 * 768 * 3072 / MB),
        ("Stable Diffusion 3.5 large", "text-input", 2, 19.9 + 2 * 2048 * 2432 / MB),
    ],
)
def test_a_scopes_bytes_are_the_published_ones(sizes, base, scope, tensors, megabytes):
    found = sizes[base][scope]
    assert found["tensors"] == tensors
    assert found["increment_bytes"] / MB == pytest.approx(megabytes, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "billions"),
    [
        ("Stable Diffusion 1.4", 0.86),
        ("Stable Diffusion XL", 2.57),
        ("Stable Diffusion 3.5 large", 8.06),
        ("FLUX.1 dev", 11.9),
    ],
)
def test_a_denoiser_has_its_published_number_of_parameters(sizes, base, billions):
    """Normalisations, which no scope has, are a thousandth."""
    assert sizes[base]["full"]["parameters"] / 1e9 == pytest.approx(billions, rel=0.01)
