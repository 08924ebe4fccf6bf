"""Increments, composed weights and pictures are those of version 0.1, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch

FOLDER = Path(__file__).parent / "golden"
SAME_BITS = {
    "OMP_NUM_THREADS": "1",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "ATEN_CPU_CAPABILITY": "default",
}


@pytest.fixture(scope="module")
def before() -> dict:
    return json.loads((FOLDER / "before_the_move.json").read_text())


@pytest.fixture(scope="module")
def now() -> dict:
    package = str(Path(__file__).parents[1])
    made = subprocess.run(
        [sys.executable, FOLDER / "record.py"],
        env={**os.environ, **SAME_BITS, "PYTHONPATH": package},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return json.loads(made.stdout)


@pytest.mark.slow
def test_the_bits_are_those_before_the_move(before, now):
    environment = before.pop("environment")
    same = (
        environment["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
        and environment["diffusers"] == diffusers.__version__
    )
    assert now.keys() == before.keys()
    for name, there in before.items():
        here = now[name]
        assert here.keys() == there.keys()
        for what, value in there.items():
            # Once these came from dense matrices: they differ in float32's last digits.
            exactly = same and what not in ("norm", "deviations")
            compare(here[what], value, f"{name}: {what}", exactly, rel=1e-5 if same else 1e-2)


def compare(here, there, where: str, exactly: bool, rel: float) -> None:
    """Compare to the bit; or, with other versions of the libraries, whatever is no digest."""
    if exactly:
        assert here == there, where
    elif isinstance(there, dict):
        for key, value in there.items():
            compare(here[key], value, f"{where}: {key}", exactly, rel)
    elif isinstance(there, int | float):
        assert here == pytest.approx(there, rel=rel), where
