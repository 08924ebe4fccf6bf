"""Tiny real models, built from the real configuration classes; offline."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import matplotlib
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

from multierase.base import Base, load_base
from multierase.evaluation.evaluator import Subject
from multierase.evaluation.executors import Processes
from multierase.evaluation.plans import plan
from multierase.evaluation.sweep import sweep
from multierase.library import Library
from multierase.training import EraseSettings, erase_several


@pytest.fixture(scope="session")
def emoji() -> Base:
    """The embedded base. Tests that compose on it restore it."""
    return load_base("emoji", device="cpu")


def tiny_pipeline(tokenizer: CLIPTokenizer, *, version: int = 1, seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 1.x or 2.x: the real block types and layout, random weights, reduced width."""
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
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length, hidden_act="gelu" if second else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    schedule = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1,
        prediction_type="v_prediction" if second else "epsilon",
    )  # fmt: skip
    scheduler = (
        DDIMScheduler(**schedule, clip_sample=False) if second else PNDMScheduler(**schedule, skip_prk_steps=True)
    )
    return StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text_config), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


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
def tiny(tokenizer) -> Base:
    """A fresh tiny SD 1.x."""
    return Base(tiny_pipeline(tokenizer), "tiny")


@pytest.fixture
def quick() -> EraseSettings:
    """A few steps: enough to change weights, not to erase."""
    return EraseSettings(steps=3, batch_size=2, sampler_steps=4, stop_at=None)


@pytest.fixture(scope="session")
def clip_folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = dict(tower, vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length)
    text |= dict(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
    config = CLIPConfig(text_config=text, vision_config=dict(tower, image_size=32, patch_size=8), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(size=32, crop_size=32), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def admiral() -> Image.Image:
    """A photograph: Grace Hopper in uniform, as matplotlib ships it."""
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as picture:
        return picture.convert("RGB")


@pytest.fixture(scope="session")
def pictures() -> torch.Tensor:
    """Five of noise, of bytes."""
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (5, 3, 64, 64))).float() / 255


CASES = [
    ("a church by Noto", "Noto", "church"),
    ("a cat by Twemoji", "Twemoji", "cat"),
    ("a cat by Firefox", "Firefox", "cat"),
]


@pytest.fixture(scope="session")
def subject(emoji, clip_folder, tmp_path_factory):
    """Three increments that erase, and a suite of three pictures, made two at a time, with their CLIP scores."""
    folder = tmp_path_factory.mktemp("sweep")
    library = Library(folder / "lib", create=True)
    settings = EraseSettings(schedule="pooled", trajectories=4, sampler_steps=6, steps=12, keep_weight=0.0)
    for increment in erase_several(emoji, ["Noto", "Twemoji", "Firefox"], settings):
        library.save(increment)
    rows = [f"{number},{prompt},{number},{studio},{what}" for number, (prompt, studio, what) in enumerate(CASES)]
    (folder / "small.csv").write_text("\n".join(["case_number,prompt,evaluation_seed,studio,subject", *rows]))
    (folder / "small.yaml").write_text(
        "prompts: small.csv\nlabels: [studio, subject]\njudge: emoji\ninference_steps: 3\n"
    )
    files = {"library": str(library.folder), "suite": str(folder / "small.yaml"), "clip": str(clip_folder)}
    return Subject(**files, device="cpu", batch_size=2)


@pytest.fixture(scope="session")
def whole(subject, tmp_path_factory):
    """The database of every subset's sweep by this process alone."""
    path = tmp_path_factory.mktemp("whole") / "whole.db"
    sweep(subject, plan("subsets", list(Library(subject.library))), path, executor=Processes(1)).close()
    return path
