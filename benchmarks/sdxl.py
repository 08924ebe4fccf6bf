"""Stable Diffusion XL's architecture with random weights, by its published configuration."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from multierase import Model, from_pipeline, load_base

LAYERS = 3  # of each text tower, which costs time and shows nothing
LENGTH = 77


def denoiser(sample_size: int = 128) -> UNet2DConditionModel:
    """Return the U-Net, for latents of this many pixels on a side."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        cross_attention_dim=2048,
    )


def stable_diffusion_xl() -> Model:
    """Return the whole denoiser at 512 pixels, and short text towers of the real widths."""
    torch.manual_seed(0)
    tokenizer = load_base("emoji", device="cpu").pipeline.tokenizer
    tokenizer.model_max_length = LENGTH
    first, second = text_config(tokenizer, 768), text_config(tokenizer, 1280)
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(block_out_channels=(8,) * 4, norm_num_groups=8),
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=denoiser(sample_size=64),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    )

    return from_pipeline(pipeline, "Stable Diffusion XL's architecture, random weights")


def text_config(
    tokenizer: CLIPTokenizer,
    width: int,
    *,
    layers: int = LAYERS,
    vocabulary: int | None = None,
    pooled: int = 1280,
) -> CLIPTextConfig:
    """Return a CLIP text tower's configuration; the vocabulary is by default the tokenizer's."""
    return CLIPTextConfig(
        vocab_size=vocabulary or len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=LENGTH,
        projection_dim=pooled,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
