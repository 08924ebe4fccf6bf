"""A pipeline's weights under the names of the code that the family was published with.

Single files for user interfaces have them, and what is read from such files does. Diffusers
converts from them and not to them. Some of diffusers' layers stand side by side in one original
layer: queries, keys and values, for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from multierase.interop.original_names import (
    CLIP_G,
    CLIP_L,
    DENOISER,
    FLUX_TABLES,
    LAYERS_OF_STABLE_DIFFUSION_2,
    OPEN_CLIP,
    OPEN_CLIP_BLOCK,
    OPEN_CLIP_TOWER,
    RESNET,
    SD3,
    SD3_BLOCK,
    T5,
    UNET,
    VAE,
    VAE_ATTENTION,
    VAE_LAYERS,
)

Tensors = dict[str, torch.Tensor]
Keys = dict[str, tuple[str, ...]]
"""By an original name the names in diffusers, whose rows are stacked."""


def original_keys(denoiser: Any) -> Keys:
    """Return by original name the names of a denoiser's parameters, each of them once.

    Raises:
        ValueError: for a denoiser of an architecture that is not known, or with layers that the
            original does not have.
    """
    kind, names = type(denoiser).__name__, [*denoiser.state_dict()]
    if kind == "UNet2DConditionModel":
        return _unet_keys(denoiser, names)

    keys: Keys = {}
    config = denoiser.config
    if kind == "SD3Transformer2DModel":
        keys |= _stacked(SD3, names)
        keys["pos_embed"] = ("pos_embed.pos_embed",)
        blocks = [("joint_blocks", "transformer_blocks", config.num_layers, SD3_BLOCK)]
    elif kind in FLUX_TABLES:
        outer, double, single = FLUX_TABLES[kind]
        keys |= _stacked(outer, names)
        blocks = [
            ("double_blocks", "transformer_blocks", config.num_layers, double),
            ("single_blocks", "single_transformer_blocks", config.num_single_layers, single),
        ]
    else:
        raise ValueError(f"the original names of a {kind} are not known")

    for theirs, ours, count, table in blocks:
        for index in range(count):
            keys |= _stacked(table, names, f"{theirs}.{index}.", f"{ours}.{index}.")
    return _complete(keys, names)


def has_halves_swapped(denoiser: Any, original: str) -> bool:
    """Tell whether an original layer has the shift first, and diffusers the scale."""
    layer = original.rpartition(".")[0]
    if not hasattr(denoiser.config, "num_layers"):  # a U-Net has none
        return False
    # Nothing reads the text after SD3's last block, so that its norm is like the final layer's.
    last = f"joint_blocks.{denoiser.config.num_layers - 1}.context_block.adaLN_modulation.1"

    return layer in ("final_layer.adaLN_modulation.1", last)


def original_tensors(denoiser: Any, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return tensors of a denoiser's parameters under their original names.

    Args:
        tensors: some or all, by their names in diffusers. Where one of several stacked layers is
            there and another is not, zeros stand for the other: give differences of weights, or
            all weights.
    """
    shapes = {name: parameter.shape for name, parameter in denoiser.state_dict().items()}
    found: Tensors = {}
    for theirs, ours in original_keys(denoiser).items():
        there = [tensors[name] for name in ours if name in tensors]
        if not there:
            continue
        like = there[0]
        parts = [tensors.get(name, like.new_zeros(shapes[name])) for name in ours]
        stacked = torch.cat(parts) if len(parts) > 1 else like
        if has_halves_swapped(denoiser, theirs):
            stacked = torch.cat([*reversed(stacked.chunk(2))])
        found[theirs] = stacked

    return found


def whole_file(pipeline: Any) -> Tensors:
    """Return all weights of a pipeline as a single file for user interfaces has them.

    Raises:
        ValueError: for a pipeline of a family whose single file is not known.
    """
    kind = type(pipeline).__name__
    if kind == "Flux2KleinPipeline":
        # Nobody publishes the rest of it in the same file.
        return _denoiser_of(pipeline.transformer, "")

    if kind == "FluxPipeline":
        tensors = _denoiser_of(pipeline.transformer) | _prefixed("vae.", vae_tensors(pipeline.vae))
        tensors |= _prefixed(CLIP_L, _projected_clip(pipeline.text_encoder))
        return tensors | _prefixed(T5, pipeline.text_encoder_2.state_dict())

    if kind == "StableDiffusion3Pipeline":
        tensors = _denoiser_of(pipeline.transformer) | _prefixed(VAE, vae_tensors(pipeline.vae))
        tensors |= _prefixed(CLIP_L, _projected_clip(pipeline.text_encoder))
        tensors |= _prefixed(CLIP_G, _projected_clip(pipeline.text_encoder_2))
        if pipeline.text_encoder_3 is not None:
            tensors |= _prefixed(T5, pipeline.text_encoder_3.state_dict())
        return tensors

    if kind not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        raise ValueError(f"the single file of a {kind} is not known")
    tensors = _denoiser_of(pipeline.unet) | _prefixed(VAE, vae_tensors(pipeline.vae))
    if kind == "StableDiffusionXLPipeline":
        first = _clip(pipeline.text_encoder)
        tensors |= _prefixed("conditioner.embedders.0.transformer.", first)
        second = _open_clip(pipeline.text_encoder_2)
        return tensors | _prefixed("conditioner.embedders.1.model.", second)
    if pipeline.text_encoder.config.hidden_act == "quick_gelu":
        return tensors | _prefixed("cond_stage_model.transformer.", _clip(pipeline.text_encoder))
    return tensors | _prefixed(OPEN_CLIP_TOWER, _open_clip_of_stable_diffusion_2(pipeline))


def vae_tensors(vae: Any) -> Tensors:
    """Return a VAE's weights under their original names."""
    tensors = {}
    for key, value in vae.state_dict().items():
        original = _vae_key(key, len(vae.config.block_out_channels))
        is_matrix = "attn_1" in original and value.ndim == 2  # the original has convolutions there
        tensors[original] = value[:, :, None, None] if is_matrix else value

    return tensors


def _denoiser_of(denoiser: Any, prefix: str = DENOISER) -> Tensors:
    return _prefixed(prefix, original_tensors(denoiser, denoiser.state_dict()))


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _stacked(
    table: Mapping[str, str], names: Sequence[str], theirs: str = "", ours: str = ""
) -> Keys:
    """Return the keys of a table's layers that are among ``names``, with weights and biases."""
    here, keys = set(names), {}
    for original, layers in table.items():
        for leaf in ("weight", "bias"):
            stacked = tuple(f"{ours}{layer}.{leaf}" for layer in layers.split())
            if stacked[0] not in here:
                continue
            # The original's normalisations of queries and keys call it a scale.
            scale = original.endswith(("query_norm", "key_norm"))
            keys[f"{theirs}{original}.{'scale' if scale else leaf}"] = stacked

    return keys


def _complete(keys: Keys, names: Iterable[str]) -> Keys:
    """Return keys, or raise ``ValueError`` where a parameter has none."""
    found = {name for stacked in keys.values() for name in stacked}
    lacking = sorted(set(names) - found)
    if lacking:
        raise ValueError(f"{len(lacking)} parameters have no original name, first {lacking[0]!r}")

    return keys


def _unet_keys(unet: Any, names: Iterable[str]) -> Keys:
    outer = {ours: theirs for theirs, ours in UNET.items()}
    blocks = _unet_blocks(unet)
    keys: Keys = {}
    for name in names:
        layer, _, leaf = name.rpartition(".")
        block = next((prefix for prefix in blocks if name.startswith(prefix)), None)
        if layer in outer:
            keys[f"{outer[layer]}.{leaf}"] = (name,)
        elif block is not None:
            rest = name.removeprefix(block)
            if ".resnets." in block:
                rest = f"{RESNET[rest.rpartition('.')[0]]}.{leaf}"
            keys[blocks[block] + rest] = (name,)

    return _complete(keys, names)


def _unet_blocks(unet: Any) -> dict[str, str]:
    """Return by the prefix of a block in diffusers its original prefix."""
    layers = unet.config.layers_per_block
    blocks = {
        "mid_block.resnets.0.": "middle_block.0.",
        "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
    }
    for level in range(len(unet.config.block_out_channels)):
        first = (layers + 1) * level
        for layer in range(layers):
            down = f"down_blocks.{level}"
            blocks[f"{down}.resnets.{layer}."] = f"input_blocks.{first + layer + 1}.0."
            blocks[f"{down}.attentions.{layer}."] = f"input_blocks.{first + layer + 1}.1."
        blocks[f"{down}.downsamplers.0.conv."] = f"input_blocks.{first + layers + 1}.0.op."

        up = f"up_blocks.{level}"
        for layer in range(layers + 1):
            blocks[f"{up}.resnets.{layer}."] = f"output_blocks.{first + layer}.0."
            blocks[f"{up}.attentions.{layer}."] = f"output_blocks.{first + layer}.1."
        place = 2 if hasattr(unet.up_blocks[level], "attentions") else 1
        blocks[f"{up}.upsamplers.0."] = f"output_blocks.{first + layers}.{place}."

    return blocks


def _vae_key(key: str, levels: int) -> str:
    parts = key.split(".")
    for index, part in enumerate(parts):
        if part == "down_blocks":
            parts[index] = "down"
        elif part == "up_blocks":  # counted from the other end
            parts[index : index + 2] = ["up", str(levels - 1 - int(parts[index + 1]))]

    key = ".".join(parts)
    for ours, theirs in VAE_LAYERS.items():
        key = key.replace(ours, theirs)
    if "attn_1" in key:
        for ours, theirs in VAE_ATTENTION.items():
            key = key.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")

    return key


def _flat(tower: Any) -> Tensors:
    """Return a CLIP tower's weights without the prefix that not all of its classes have."""
    return {key.removeprefix("text_model."): value for key, value in tower.state_dict().items()}


def _clip(tower: Any) -> Tensors:
    return _prefixed("text_model.", _flat(tower))


def _projected_clip(tower: Any) -> Tensors:
    """Return a tower as SD3's files and ComfyUI's have it: its projection, if any, outside."""
    tensors = _clip(tower)
    projection = tensors.pop("text_model.text_projection.weight", None)

    return tensors if projection is None else {**tensors, "text_projection.weight": projection}


def _open_clip(tower: Any) -> Tensors:
    state = _flat(tower)
    keys = _stacked(OPEN_CLIP, list(state))
    keys["positional_embedding"] = ("embeddings.position_embedding.weight",)
    for index in range(tower.config.num_hidden_layers):
        block = f"transformer.resblocks.{index}."
        keys |= _stacked(OPEN_CLIP_BLOCK, list(state), block, f"encoder.layers.{index}.")

    tensors = {}
    for theirs, ours in keys.items():
        name = theirs.replace("in_proj.", "in_proj_")  # one parameter there, not a layer's
        tensors[name] = torch.cat([state[key] for key in ours])
    if "text_projection.weight" in state:
        tensors["text_projection"] = state["text_projection.weight"].T
    return tensors


def _open_clip_of_stable_diffusion_2(pipeline: Any) -> Tensors:
    """Return the tower with a last block that nothing reads, without which no interface takes it.

    Diffusers' tower ends with the last block that is read.
    """
    tensors = _open_clip(pipeline.text_encoder)
    layers = pipeline.text_encoder.config.num_hidden_layers
    if layers != LAYERS_OF_STABLE_DIFFUSION_2 - 1:
        return tensors

    block = f"transformer.resblocks.{layers - 1}."
    for name in [name for name in tensors if name.startswith(block)]:
        tensors[f"transformer.resblocks.{layers}.{name.removeprefix(block)}"] = tensors[name]
    width = pipeline.text_encoder.config.hidden_size
    tensors["text_projection"] = torch.eye(width, dtype=tensors["positional_embedding"].dtype)
    tensors["logit_scale"] = torch.tensor(4.6052, dtype=tensors["positional_embedding"].dtype)
    return tensors
