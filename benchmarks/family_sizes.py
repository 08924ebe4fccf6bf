"""How many parameters does each scope change in each family, and what do they take?

    python benchmarks/family_sizes.py --out benchmarks/results/family_sizes.json

From the published configurations alone: the denoisers have no numbers, so this takes seconds. The
memory is that of weights, increment, gradient and Adam's two moments in training, and of the
changed weights where a scope has more than readers of the text; activations, text towers and VAE
come on top. A scope whose increment would be gigabytes is trained in factors. Separated parameters
are counted whole, which is the most that they can take. ``family_memory.py`` measures it on a GPU.
Prints a table on stderr and one JSON object on stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from harness import Results, parser
from sdxl import denoiser as stable_diffusion_xl_unet
from torch import nn

from multierase.models.flux import Flux
from multierase.models.flux2 import Flux2Klein
from multierase.models.model import Model
from multierase.models.sd3 import StableDiffusion3
from multierase.models.sdxl import StableDiffusionXL
from multierase.models.stable_diffusion import StableDiffusion
from multierase.training.defaults import default_rank

HALF, WHOLE = 2, 4  # bytes
COPIES = 4  # of what is trained, in float32: increment, gradient, two moments
GB = 1e9

Build = Callable[[], nn.Module]

_SD3 = MappingProxyType(
    {
        "in_channels": 16,
        "attention_head_dim": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "qk_norm": "rms_norm",
    }
)


def _sd14() -> nn.Module:
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def _sd35_medium() -> nn.Module:
    return SD3Transformer2DModel(
        **_SD3,
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
    )


def _sd35_large() -> nn.Module:
    return SD3Transformer2DModel(
        **_SD3,
        sample_size=128,
        num_layers=38,
        num_attention_heads=38,
        caption_projection_dim=2432,
        pos_embed_max_size=192,
    )


def _flux() -> nn.Module:
    return FluxTransformer2DModel(guidance_embeds=True)


def _klein_4b() -> nn.Module:
    return Flux2Transformer2DModel(
        num_layers=5,
        num_single_layers=20,
        num_attention_heads=24,
        joint_attention_dim=3 * 2560,  # three layers of Qwen3's
        guidance_embeds=False,
    )


BASES: Mapping[str, tuple[type[Model], Build]] = {
    "Stable Diffusion 1.4": (StableDiffusion, _sd14),
    "Stable Diffusion XL": (StableDiffusionXL, stable_diffusion_xl_unet),
    "Stable Diffusion 3.5 medium": (StableDiffusion3, _sd35_medium),
    "Stable Diffusion 3.5 large": (StableDiffusion3, _sd35_large),
    "FLUX.1 dev": (Flux, _flux),
    "FLUX.2 klein 4B": (Flux2Klein, _klein_4b),
}


def bare(name: str) -> Model:
    """Return a model of a base's configuration whose denoiser has no numbers, and nothing else."""
    family, build = BASES[name]
    with torch.device("meta"):
        denoiser = build()
    component = "unet" if isinstance(denoiser, UNet2DConditionModel) else "transformer"

    # There is no pipeline without text towers and VAE, which are not asked here.
    model = object.__new__(family)
    model.components = {component: denoiser}
    return model


def sizes(model: Model) -> dict[str, dict[str, Any]]:
    """Return by scope the number of its tensors and parameters, and their bytes."""
    here, found = model.parameters(), {}
    every = sum(parameter.numel() for parameter in here.values())
    for scope in model.scopes:
        names = model.scope_parameters(scope)
        count = sum(here[name].numel() for name in names)
        found[scope] = {
            "tensors": len(names),
            "parameters": count,
            "increment_bytes": HALF * count,
            **training(model, scope, every),
        }

    return found


def training(model: Model, scope: str, every: int) -> dict[str, int]:
    """Return the numbers that are trained by default, and the bytes that training holds."""
    here, names, rank = (
        model.parameters(),
        model.scope_parameters(scope),
        default_rank(model, scope),
    )
    free = {name for name in names if name not in model.readers}
    trained = 0
    for name in names:
        shape = here[name].shape
        factored = rank and name in free and len(shape) == 2
        trained += rank * sum(shape) if factored else here[name].numel()

    changed = sum(here[name].numel() for name in names) if free else 0
    held = HALF * (every + changed) + COPIES * WHOLE * trained
    return {"rank": rank, "trained": trained, "training_bytes": held}


def main() -> None:
    options = parser(__doc__, shards=False)
    arguments = options.parse_args()
    results = Results(arguments.out)

    table = {}
    for name in BASES:
        table[name] = sizes(bare(name))
        print(name, file=sys.stderr)
        for scope, row in table[name].items():
            line = f"  {scope:14s} {row['tensors']:5d} tensors {row['parameters'] / 1e6:9.1f} M"
            line += f"   increment {row['increment_bytes'] / GB:6.3f} GB in float16"
            line += f"   training {row['training_bytes'] / GB:6.1f} GB without activations"
            print(line, file=sys.stderr)

    results.finish({"benchmark": "family_sizes", "table": table})


if __name__ == "__main__":
    main()
