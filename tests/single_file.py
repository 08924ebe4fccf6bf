"""Writes a diffusers pipeline as one file in its family's original layout, to be loaded.

The inverse of what diffusers does in ``single_file_utils``: every parameter has to find its name.
"""

import torch
from safetensors.torch import save_file

CLIP_L, T5 = "text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."
BESIDE_A_TRANSFORMER = ("text_encoders.", "first_stage_model.", "vae.")

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
VAE_NAMES = {
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
    "resnets": "block",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_shortcut": "nin_shortcut",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}

# Below, the layers of diffusers that are stacked into one original layer stand side by side.
OPEN_CLIP = {
    "token_embedding": "embeddings.token_embedding",
    "ln_final": "final_layer_norm",
}
OPEN_CLIP_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.in_proj": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
SD3 = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
SD3_BLOCK = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn2.qkv": "attn2.to_q attn2.to_k attn2.to_v",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
FLUX = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
FLUX_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mod.lin": "norm1_context.linear",
    "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
FLUX_SINGLE = {
    "modulation.lin": "norm.linear",
    "linear1": "attn.to_q attn.to_k attn.to_v proj_mlp",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "proj_out",
}
FLUX2 = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
FLUX2_DOUBLE = {
    "img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.linear_in",
    "img_mlp.2": "ff.linear_out",
    "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.linear_in",
    "txt_mlp.2": "ff_context.linear_out",
}
FLUX2_SINGLE = {
    "linear1": "attn.to_qkv_mlp_proj",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "attn.to_out",
}


def unet_prefixes(unet):
    """Return the original prefixes of diffusers' blocks."""
    layers = unet.config.layers_per_block
    prefixes = {
        "mid_block.resnets.0.": "middle_block.0.",
        "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
    }
    for level in range(len(unet.config.block_out_channels)):
        for layer in range(layers):
            block = (layers + 1) * level + layer + 1
            prefixes[f"down_blocks.{level}.resnets.{layer}."] = f"input_blocks.{block}.0."
            prefixes[f"down_blocks.{level}.attentions.{layer}."] = f"input_blocks.{block}.1."
        down = (layers + 1) * (level + 1)
        prefixes[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{down}.0.op."

        for layer in range(layers + 1):
            block = (layers + 1) * level + layer
            prefixes[f"up_blocks.{level}.resnets.{layer}."] = f"output_blocks.{block}.0."
            prefixes[f"up_blocks.{level}.attentions.{layer}."] = f"output_blocks.{block}.1."

        last = (layers + 1) * level + layers
        place = 2 if hasattr(unet.up_blocks[level], "attentions") else 1
        prefixes[f"up_blocks.{level}.upsamplers.0."] = f"output_blocks.{last}.{place}."

    return prefixes


def original_unet_key(key, prefixes):
    module, _, leaf = key.rpartition(".")
    if module in OUTER:
        return f"{OUTER[module]}.{leaf}"

    old = next(prefix for prefix in prefixes if key.startswith(prefix))
    rest = key.removeprefix(old)
    if ".resnets." in old:
        part, _, leaf = rest.rpartition(".")
        rest = f"{RESNET[part]}.{leaf}"
    return prefixes[old] + rest


def original_vae_key(key, levels):
    parts = key.split(".")
    for index, part in enumerate(parts):
        if part in ("down_blocks", "up_blocks"):
            level = int(parts[index + 1])
            parts[index : index + 2] = (
                ["down", str(level)] if part == "down_blocks" else ["up", str(levels - 1 - level)]
            )

    key = ".".join(parts)
    for ours, theirs in VAE_NAMES.items():
        key = key.replace(ours, theirs)
    if "attn_1" in key:
        for ours, theirs in VAE_ATTENTION.items():
            key = key.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")

    return key


def unet_tensors(unet):
    prefixes = unet_prefixes(unet)
    return {original_unet_key(key, prefixes): value for key, value in unet.state_dict().items()}


def vae_tensors(vae):
    tensors = {}
    for key, value in vae.state_dict().items():
        original = original_vae_key(key, len(vae.config.block_out_channels))
        is_matrix = "attn_1" in original and value.ndim == 2  # the original has convolutions there
        tensors[original] = value[:, :, None, None] if is_matrix else value

    return tensors


def clip_tensors(text_encoder):
    """Return a tower under the names of transformers, with the prefix that not all have there."""
    return {f"text_model.{key}": value for key, value in flat(text_encoder).items()}


def open_clip_tensors(text_encoder):
    state = flat(text_encoder)
    tensors = take(state, OPEN_CLIP)
    tensors["positional_embedding"] = state.pop("embeddings.position_embedding.weight")
    tensors["text_projection"] = state.pop("text_projection.weight").T
    for index in range(text_encoder.config.num_hidden_layers):
        block = f"transformer.resblocks.{index}."
        tensors |= take(state, OPEN_CLIP_BLOCK, f"encoder.layers.{index}.", block)
        for leaf in ("weight", "bias"):
            tensors[f"{block}attn.in_proj_{leaf}"] = tensors.pop(f"{block}attn.in_proj.{leaf}")

    return all_taken(tensors, state)


def flat(text_encoder):
    return {key.removeprefix("text_model."): v for key, v in text_encoder.state_dict().items()}


def sd3_tensors(transformer):
    state = transformer.state_dict()
    tensors = take(state, SD3)
    tensors["pos_embed"] = state.pop("pos_embed.pos_embed")
    layers = transformer.config.num_layers
    for index in range(layers):
        block = f"joint_blocks.{index}."
        tensors |= take(state, SD3_BLOCK, f"transformer_blocks.{index}.", block)
    swap_halves(tensors, "final_layer.adaLN_modulation.1")
    # Nothing reads the text after the last block, so that its norm is like the final layer's.
    swap_halves(tensors, f"joint_blocks.{layers - 1}.context_block.adaLN_modulation.1")

    return all_taken(tensors, state)


def flux_tensors(transformer, outer=FLUX, double=FLUX_DOUBLE, single=FLUX_SINGLE):
    state = transformer.state_dict()
    tensors = take(state, outer)
    for index in range(transformer.config.num_layers):
        block = f"double_blocks.{index}."
        tensors |= take(state, double, f"transformer_blocks.{index}.", block)
    for index in range(transformer.config.num_single_layers):
        block = f"single_blocks.{index}."
        tensors |= take(state, single, f"single_transformer_blocks.{index}.", block)
    swap_halves(tensors, "final_layer.adaLN_modulation.1")

    return all_taken(tensors, state)


def take(state, table, old="", new=""):
    """Take layers out of ``state`` under their original names; several become one, stacked."""
    tensors = {}
    for theirs, ours in table.items():
        for leaf in ("weight", "bias"):
            names = [f"{old}{name}.{leaf}" for name in ours.split()]
            if names[0] in state:
                original = "scale" if theirs.endswith(("query_norm", "key_norm")) else leaf
                tensors[f"{new}{theirs}.{original}"] = torch.cat([state.pop(n) for n in names])

    return tensors


def swap_halves(tensors, layer):
    """Put the shift first: diffusers has the scale first."""
    for leaf in ("weight", "bias"):
        if f"{layer}.{leaf}" in tensors:
            scale, shift = tensors[f"{layer}.{leaf}"].chunk(2)
            tensors[f"{layer}.{leaf}"] = torch.cat([shift, scale])


def all_taken(tensors, state):
    assert not state, f"these have no original name: {sorted(state)}"
    return tensors


def projected_tensors(text_encoder):
    """Return a CLIP tower as SD3's and ComfyUI's files have it: its projection, if any, outside."""
    tensors = clip_tensors(text_encoder)
    projection = tensors.pop("text_model.text_projection.weight", None)
    if projection is not None:
        tensors["text_projection.weight"] = projection

    return tensors


def parts_of(pipeline):
    """Return all that a single file can hold of the pipeline, by the prefix that it has there."""
    kind = type(pipeline).__name__
    if kind == "FluxPipeline":
        return {
            "model.diffusion_model.": flux_tensors(pipeline.transformer),
            "vae.": vae_tensors(pipeline.vae),
            CLIP_L: projected_tensors(pipeline.text_encoder),
            T5: pipeline.text_encoder_2.state_dict(),
        }
    if kind == "Flux2KleinPipeline":
        return {"": flux_tensors(pipeline.transformer, FLUX2, FLUX2_DOUBLE, FLUX2_SINGLE)}
    if kind == "StableDiffusion3Pipeline":
        parts = {
            "model.diffusion_model.": sd3_tensors(pipeline.transformer),
            "first_stage_model.": vae_tensors(pipeline.vae),
            CLIP_L: projected_tensors(pipeline.text_encoder),
            "text_encoders.clip_g.transformer.": projected_tensors(pipeline.text_encoder_2),
        }
        if pipeline.text_encoder_3 is not None:
            parts[T5] = pipeline.text_encoder_3.state_dict()
        return parts

    parts = {
        "model.diffusion_model.": unet_tensors(pipeline.unet),
        "first_stage_model.": vae_tensors(pipeline.vae),
    }
    first = clip_tensors(pipeline.text_encoder)
    if kind == "StableDiffusionPipeline":
        return parts | {"cond_stage_model.transformer.": first}

    second = open_clip_tensors(pipeline.text_encoder_2)
    return parts | {
        "conditioner.embedders.0.transformer.": first,
        "conditioner.embedders.1.model.": second,
    }


def save_single_file(pipeline, path, *, whole=False, without=(), dtype=None):
    """Write a pipeline's weights under the names of the original code.

    Of Stable Diffusion 3 and FLUX the transformer alone, as they are usually published.

    Args:
        whole: write all of it, as ComfyUI does.
        without: what the names begin with that the file lacks.
        dtype: of every number; by default its own.
    """
    if hasattr(pipeline, "transformer") and not whole:
        without = BESIDE_A_TRANSFORMER
    tensors = {}
    for prefix, part in parts_of(pipeline).items():
        for key, value in part.items():
            tensors[prefix + key] = value.detach().clone().contiguous().to(dtype or value.dtype)
    kept = {key: value for key, value in tensors.items() if not key.startswith(tuple(without))}
    if type(pipeline).__name__ == "FluxPipeline" and not whole:
        kept = {key.removeprefix("model.diffusion_model."): kept[key] for key in kept}

    save_file(kept, path)
