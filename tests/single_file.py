"""Writes a diffusers Stable Diffusion 1.x as one file in the original layout, to be loaded."""

from safetensors.torch import save_file

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


def unet_prefixes(levels, layers):
    """Return the original prefixes of diffusers' blocks."""
    prefixes = {
        "mid_block.resnets.0.": "middle_block.0.",
        "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
    }
    for level in range(levels):
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

        last, place = (layers + 1) * level + layers, 1 if level == 0 else 2
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


def save_single_file(pipeline, path):
    """Write a pipeline's weights under the names of the original code."""
    unet, vae = pipeline.unet, pipeline.vae
    prefixes = unet_prefixes(len(unet.config.block_out_channels), unet.config.layers_per_block)

    tensors = {}
    for key, value in unet.state_dict().items():
        tensors["model.diffusion_model." + original_unet_key(key, prefixes)] = value
    for key, value in vae.state_dict().items():
        original = original_vae_key(key, len(vae.config.block_out_channels))
        is_matrix = "attn_1" in original and value.ndim == 2  # the original has convolutions there
        tensors["first_stage_model." + original] = value[:, :, None, None] if is_matrix else value
    for key, value in pipeline.text_encoder.state_dict().items():
        prefix = "" if key.startswith("text_model.") else "text_model."
        tensors[f"cond_stage_model.transformer.{prefix}{key}"] = value

    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, path)
