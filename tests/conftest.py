"""Tiny real models, built from the real configuration classes; offline."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
# The models here are so small that a second thread only waits for the first; set before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
from families import tiny_sd
from transformers import CLIPTokenizer

from multierase import EraseSettings, Increment, Model, erase, from_pipeline, load_base
from multierase.training import defaults


@pytest.fixture(autouse=True)
def kind_of_random_weights(monkeypatch) -> None:
    """Random weights understand no sentence: a base without a kind of its own takes none here."""
    monkeypatch.setattr(defaults, "DEFAULT_KIND", defaults.NO_KIND)


@pytest.fixture(scope="session")
def emoji() -> Model:
    """The embedded base. Tests that compose on it restore it."""
    return load_base("emoji", device="cpu")


@pytest.fixture(scope="session")
def tokenizer(emoji) -> CLIPTokenizer:
    return emoji.pipeline.tokenizer


@pytest.fixture(scope="session", params=[1, 2], ids=["sd1", "sd2"])
def sd_folder(request, tokenizer, tmp_path_factory):
    """A Stable Diffusion folder of either version."""
    folder = tmp_path_factory.mktemp("sd") / f"sd{request.param}"
    tiny_sd(tokenizer, version=request.param).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tokenizer) -> Model:
    """A fresh tiny SD 1.x."""
    return from_pipeline(tiny_sd(tokenizer), "tiny")


@pytest.fixture
def quick() -> EraseSettings:
    """A few steps: enough to change weights, not to erase."""
    return EraseSettings(
        steps=3,
        batch_size=2,
        sampler_steps=4,
        stop_at=None,
        kind="none",
        eta=3.0,
        learning_rate=0.1,
    )


@pytest.fixture
def noto(tiny, quick) -> Increment:
    """An increment of ``tiny``, of three steps."""
    return erase(tiny, "Noto", quick)
