"""Stable Diffusion 1.4's architecture with random weights: they do for sizes and times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from multierase import Model, from_pipeline, load_base

NAME = "stable-diffusion-v1-4, random weights"
WIDTH = 768  # of the text embedding
ROWS = 24_960  # of all keys and values, stacked
UNET = {"sample_size": 64, "cross_attention_dim": WIDTH, "attention_head_dim": 8}
SPREAD = 0.04  # of a random weight


def stable_diffusion_1_4() -> Model:
    """Return the architecture as its configuration files state it.

    The tokenizer is the embedded base's, at 77 tokens.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )

    return _model(UNet2DConditionModel(**UNET), vae, text_layers=12)


def cross_attention_alone(dtype: torch.dtype = torch.float32) -> Model:
    """Return the same denoiser; only its cross-attention has numbers, the rest takes no memory."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    generator = torch.Generator().manual_seed(0)
    for name, module in unet.named_modules():
        if not name.endswith("attn2"):
            continue
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            parameter.data = SPREAD * torch.randn(parameter.shape, generator=generator)
        module.to(dtype)

    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8)
    return _model(unet, vae, text_layers=1)


def text_alone(words: Sequence[str]) -> Model:
    """Return the same text tower, with a tokenizer of whole words; the denoiser has no numbers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8)

    return _model(unet, vae, text_layers=12, tokenizer=_whole_words(words))


def _whole_words(words: Sequence[str]) -> PreTrainedTokenizerFast:
    special = ("<unknown>", "<begin>", "<end>")
    places = {word: place for place, word in enumerate((*special, *words))}
    whole = Tokenizer(WordLevel(places, unk_token="<unknown>"))
    whole.normalizer = Lowercase()
    whole.pre_tokenizer = Whitespace()
    whole.post_processor = TemplateProcessing(
        "<begin> $A <end>", special_tokens=[("<begin>", 1), ("<end>", 2)]
    )

    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        unk_token="<unknown>",
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<end>",
    )


def _model(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    *,
    text_layers: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Model:
    tokenizer = tokenizer or load_base("emoji", device="cpu").pipeline.tokenizer
    tokenizer.model_max_length = 77

    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=_text_encoder(tokenizer, text_layers),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return from_pipeline(pipeline, NAME)


def _text_encoder(tokenizer: PreTrainedTokenizerBase, layers: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3072,
            num_hidden_layers=layers,
            num_attention_heads=12,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
