"""The trained parts in the work folder, and the pipeline of them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

TOWERS = ("text_encoder", "text_encoder_2")
# Diffusers asks for it in words: that the folder has none is not enough for it.
WITHOUT_T5 = {"text_encoder_3": None, "tokenizer_3": None}
# Of noise levels towards noise, in training and in the sampler: Stable Diffusion 3's.
SHIFT = 3.0


def load_towers(work: Path) -> list[CLIPTextModelWithProjection]:
    """Read both text towers, frozen."""
    towers = [CLIPTextModelWithProjection.from_pretrained(work / name) for name in TOWERS]

    return [tower.eval().requires_grad_(False) for tower in towers]


def load_vae(work: Path, name: str = "vae") -> AutoencoderKL:
    """Read the VAE, frozen."""
    return AutoencoderKL.from_pretrained(work / name).eval().requires_grad_(False)


@torch.no_grad()
def encode_text(
    towers: list[CLIPTextModelWithProjection], tokens: torch.Tensor, joint: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode captions as the pipeline does, with one row of zeros in place of T5's.

    Returns:
        ``(b, token + 1, joint)`` rows and ``(b, pooled)`` vectors.
    """
    outputs = [tower(tokens, output_hidden_states=True) for tower in towers]
    rows = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
    padding = (0, joint - rows.shape[-1], 0, 1)

    return torch.nn.functional.pad(rows, padding), pooled


def pipeline_of(
    work: Path, transformer: SD3Transformer2DModel, shift: float = SHIFT
) -> StableDiffusion3Pipeline:
    """Return the pipeline of the trained parts."""
    first, second = load_towers(work)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")

    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=load_vae(work),
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer,
        **WITHOUT_T5,
    )
