"""Tiny real models, built from the real configuration classes; offline."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
# The models here are so small that a second thread only waits for the first; set before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from families import tiny_tower, tiny_vae
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


def tiny_pipeline(
    tokenizer: CLIPTokenizer, *, version: int = 1, seed: int = 0
) -> StableDiffusionPipeline:
    """Make Stable Diffusion 1.x or 2.x: the real blocks and layout, random weights, small width."""
    torch.manual_seed(seed)
    second = version == 2
    width = 48 if second else 32
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=width,
        attention_head_dim=[2, 4, 4, 4] if second else 4,
        use_linear_projection=second,
        norm_num_groups=16,
    )
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_tower(tokenizer, width, act="gelu" if second else "quick_gelu", layers=2),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(second),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _scheduler(second: bool) -> DDIMScheduler | PNDMScheduler:
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction" if second else "epsilon",
    }
    if second:
        return DDIMScheduler(**schedule, clip_sample=False)

    return PNDMScheduler(**schedule, skip_prk_steps=True)


@pytest.fixture(scope="session")
def tokenizer(emoji) -> CLIPTokenizer:
    return emoji.pipeline.tokenizer


@pytest.fixture(scope="session", params=[1, 2], ids=["sd1", "sd2"])
def sd_folder(request, tokenizer, tmp_path_factory):
    """A Stable Diffusion folder of either version."""
    folder = tmp_path_factory.mktemp("sd") / f"sd{request.param}"
    tiny_pipeline(tokenizer, version=request.param).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tokenizer) -> Model:
    """A fresh tiny SD 1.x."""
    return from_pipeline(tiny_pipeline(tokenizer), "tiny")


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
