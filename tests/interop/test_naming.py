"""Names at full size, against what is published of them; the models have no numbers."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel

from multierase.interop.naming import Names, Place
from multierase.models.flux import Flux
from multierase.models.model import Model
from multierase.models.sdxl import StableDiffusionXL
from multierase.models.stable_diffusion import StableDiffusion

READER = "transformer_blocks.0.attn2.to_k.weight"


def bare(family: type[Model], component: str, denoiser) -> Model:
    model = object.__new__(family)
    model.components = {component: denoiser}

    return model


@pytest.fixture(scope="module")
def sd14() -> Names:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)

    return Names(bare(StableDiffusion, "unet", unet))


@pytest.fixture(scope="module")
def sdxl() -> Names:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
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

    return Names(bare(StableDiffusionXL, "unet", unet))


@pytest.fixture(scope="module")
def flux() -> Names:
    with torch.device("meta"):
        return Names(bare(Flux, "transformer", FluxTransformer2DModel(guidance_embeds=True)))


def test_stable_diffusions_cross_attention_is_in_these_blocks(sd14):
    blocks = [name.partition(".1.transformer")[0] for name in sd14.original if READER in name]
    inner = [f"input_blocks.{block}" for block in (1, 2, 4, 5, 7, 8)]
    outer = [f"output_blocks.{block}" for block in range(3, 12)]
    assert sorted(blocks) == sorted([*inner, "middle_block", *outer])
    # As the published checkpoint has: its U-Net's parameters are 686.
    assert len(sd14.original) == len(sd14.shapes) == 686


def test_kohyas_names(sd14):
    layer = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    ours = f"unet.down_blocks.0.attentions.0.{READER}"
    assert sd14.flat(ours) == layer
    assert sd14.of_layer(layer) == Place((ours,))
    assert sd14.of_layer("input_blocks_1_1_transformer_blocks_0_attn2_to_k") == Place((ours,))
    assert sd14.of_layer("mid_block_attentions_0_proj_in").parameters[0].endswith("proj_in.weight")
    assert sd14.of_layer("text_model_encoder_layers_0_mlp_fc1") is None


def test_names_with_underscores_are_each_one_layers(sd14, sdxl, flux):
    for names in (sd14, sdxl, flux):
        weights = [name for name in names.shapes if name.endswith(".weight")]
        flat = [names.flat(name) for name in weights]
        assert len(set(flat)) == len(flat)
        assert all(
            names.of_layer(one) == Place((name,)) for one, name in zip(flat, weights, strict=True)
        )


def test_stable_diffusion_xls_cross_attention_is_in_these_blocks(sdxl):
    counts: dict[str, int] = {}
    for name in sdxl.original:
        found = re.match(r"(\w+_blocks?(?:\.\d+)?)\.1\.transformer_blocks\.\d+\.attn2\.to_k", name)
        if found:
            counts[found[1]] = counts.get(found[1], 0) + 1
    two = {f"{side}_blocks.{block}": 2 for side, block in _SIDES_OF_TWO}
    ten = {f"{side}_blocks.{block}": 10 for side, block in _SIDES_OF_TEN}
    assert counts == {**two, **ten, "middle_block": 10}
    assert sum(counts.values()) == 70


_SIDES_OF_TWO = [("input", 4), ("input", 5), ("output", 3), ("output", 4), ("output", 5)]
_SIDES_OF_TEN = [("input", 7), ("input", 8), ("output", 0), ("output", 1), ("output", 2)]


def test_fluxs_text_stream_is_one_layer_in_the_original(flux):
    place = flux.of_key("double_blocks.0.txt_attn.qkv.weight")
    block = "transformer.transformer_blocks.0.attn"
    assert place == Place(tuple(f"{block}.add_{part}_proj.weight" for part in "qkv"))
    assert flux.of_key("txt_in.weight") == Place(("transformer.context_embedder.weight",))
    pooled = "transformer.time_text_embed.text_embedder.linear_1.weight"
    assert flux.of_key("vector_in.in_layer.weight") == Place((pooled,))
    assert flux.of_key("final_layer.adaLN_modulation.1.weight").swapped
    parts = flux.split(place, torch.zeros(3 * 3072, 3072, device="meta"))
    assert [tuple(part.shape) for part in parts.values()] == [(3072, 3072)] * 3
    with pytest.raises(ValueError, match="have 9216 rows, and the file has 3072"):
        flux.split(place, torch.zeros(3072, 3072, device="meta"))
