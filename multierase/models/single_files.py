"""Diffusers' pipelines from one file of weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, Flux2Transformer2DModel, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import T5EncoderModel

from multierase.errors import WeightsFileError
from multierase.models.folders import from_folder, index_of
from multierase.models.sources import is_path

# What only the single files of a family have in their parameters' names.
MARKS = {
    "FluxPipeline": "double_blocks.0.img_mod.lin.",  # neither FLUX.2's nor HunyuanVideo's
    "Flux2KleinPipeline": "double_stream_modulation_img.lin.",  # and FLUX.2 dev's
    "StableDiffusion3Pipeline": "joint_blocks.",
    "StableDiffusionXLPipeline": "conditioner.embedders.1.",
    "StableDiffusionPipeline": "cond_stage_model.",
}
KLEIN = "Flux2KleinPipeline"
GUIDANCE = "guidance_in."  # of FLUX.1 dev and FLUX.2 dev
CLIP, T5 = "text_encoders.clip_", "text_encoders.t5xxl."
VAE = ("first_stage_model.", "vae.")
# What a transformer's single file may hold beside it, by the prefix of its parameters' names.
BESIDE: dict[str, dict[str, str | tuple[str, ...]]] = {
    "FluxPipeline": {"text_encoder": f"{CLIP}l.", "text_encoder_2": T5, "vae": VAE},
    "StableDiffusion3Pipeline": {
        "text_encoder": f"{CLIP}l.",
        "text_encoder_2": f"{CLIP}g.",
        "text_encoder_3": T5,
        "vae": VAE,
    },
}
# Where all that a transformer's single file lacks is published, by the first that its names have.
PUBLISHED = {
    "x_block.attn2.": "stabilityai/stable-diffusion-3.5-medium",
    "x_block.attn.ln_q.": "stabilityai/stable-diffusion-3.5-large",
    "joint_blocks.": "stabilityai/stable-diffusion-3-medium-diffusers",
    GUIDANCE: "black-forest-labs/FLUX.1-dev",
    "double_blocks.": "black-forest-labs/FLUX.1-schnell",
}
# Numbers that stored weights have to be multiplied by, which diffusers' converters do not do.
SCALES = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant", ".absmax", ".quant_state")

logger = logging.getLogger(__name__)


def from_single_file(source: str, dtype: torch.dtype, config: str | None) -> DiffusionPipeline:
    """Load a single file of a family that is known; see ``load_base`` for ``config``."""
    names = _names_in(Path(source))
    # All names in one text: a mark is a part of some of them.
    text = "\n".join(names)
    kind = next((kind for kind, mark in MARKS.items() if mark in text), None)
    if kind is None:
        raise ValueError(
            f"{source!r} is not the single file of a family that is known: {sorted(MARKS)}"
        )
    if kind == KLEIN:
        _require_klein(source, config, GUIDANCE in text)
    if any(mark in text for mark in SCALES):
        raise WeightsFileError(
            f"{source!r} is quantised, and has scales beside its weights, which cannot be applied "
            "here: give the file of plain float8, float16 or bfloat16"
        )
    if config is not None and is_path(config):
        _require_config_of(kind, source, config)

    try:
        if kind == KLEIN:
            pipeline = _klein_file(source, dtype, str(config))
        elif kind in BESIDE:
            rest = config or next(PUBLISHED[mark] for mark in PUBLISHED if mark in text)
            pipeline = _transformer_file(kind, source, dtype, rest, names)
        else:
            pipeline = _whole_file(kind, source, dtype, config)
    except WeightsFileError:
        raise
    except OSError as error:
        raise FileNotFoundError(
            f"cannot load what single file {source!r} needs beside it, give the folder of a "
            f"pipeline of the same architecture (--base_config): {error}"
        ) from error
    except (KeyError, ValueError, RuntimeError, SingleFileComponentError) as error:
        raise WeightsFileError(
            f"single file {source!r} is not complete, or not of the same size as its config: "
            f"{error!r}"
        ) from error
    for name, part in pipeline.components.items():
        _require_numbers(source, name, part)

    return pipeline


def _whole_file(
    kind: str, source: str, dtype: torch.dtype, config: str | None, **parts: Any
) -> DiffusionPipeline:
    """Load all of a pipeline from a file, but ``parts``."""
    local, pipeline = config is not None and Path(config).is_dir(), getattr(diffusers, kind)

    return pipeline.from_single_file(
        source, dtype=dtype, config=config, local_files_only=local, **parts
    )


def _transformer_file(
    kind: str, source: str, dtype: torch.dtype, rest: str, names: list[str]
) -> DiffusionPipeline:
    """Load a transformer and what its file holds beside it; all else is another pipeline's."""
    _require_same_guidance(kind, source, rest, names)
    held = ["transformer"]
    for part, prefix in BESIDE[kind].items():
        if any(name.startswith(prefix) for name in names):
            held.append(part)

    _, index = index_of(rest)
    lacking = dict.fromkeys(part for part, value in index.items() if isinstance(value, list))
    for part in held:
        lacking.pop(part, None)
    read = _whole_file(kind, source, dtype, rest, **lacking)
    parts = {name: read.components[name] for name in held}
    for part in parts.values():
        # ComfyUI stores T5's embeddings once.
        if isinstance(part, T5EncoderModel):
            part.tie_weights()

    if "text_encoder" in held and "text_encoder_3" in lacking:
        logger.warning("%s has CLIP and no T5: its prompts are read by CLIP alone", source)
        parts["text_encoder_3"] = None
    return from_folder(rest, dtype, **parts)


def _klein_file(source: str, dtype: torch.dtype, rest: str) -> DiffusionPipeline:
    """Load a transformer; all else is the config's, for diffusers reads nothing else of a file."""
    transformer = Flux2Transformer2DModel.from_single_file(
        source,
        dtype=dtype,
        config=rest,
        subfolder="transformer",
        local_files_only=Path(rest).is_dir(),
    )

    return from_folder(rest, dtype, transformer=transformer)


def _require_klein(source: str, config: str | None, guided: bool) -> None:
    if guided:
        raise ValueError(
            f"{source!r} is a single file of FLUX.2 dev, which is not supported; of FLUX.2 klein is"
        )
    if config is None:  # its names tell neither its size nor whether it is distilled
        raise ValueError(
            f"{source!r} is a single file of FLUX.2 klein, and does not say which: give the folder "
            "or hub id of the same model (--base_config)"
        )


def _require_same_guidance(kind: str, source: str, rest: str, names: list[str]) -> None:
    if kind != "FluxPipeline":
        return
    settings = FluxTransformer2DModel.load_config(rest, subfolder="transformer")
    if settings["guidance_embeds"] is not any(GUIDANCE in name for name in names):
        raise WeightsFileError(
            f"of {source!r} and its config {rest!r} one is FLUX.1 dev, whose guidance is an input, "
            "and the other is schnell: give the config of the same model"
        )


def _require_config_of(kind: str, source: str, config: str) -> None:
    if not Path(config).is_dir():
        raise FileNotFoundError(f"no config at {config!r}: give a pipeline's folder or a hub id")
    other, _ = index_of(config)
    if other != kind:
        raise ValueError(
            f"{source!r} is a single file of a {kind}, and config {config!r} is of a {other}: give "
            "the config of the same family"
        )


def _require_numbers(source: str, name: str, part: Any) -> None:
    """Raise ``WeightsFileError`` if a part of a pipeline has weights that the file did not have."""
    if not isinstance(part, nn.Module):
        return
    lacking = [weight for weight, tensor in part.state_dict().items() if tensor.is_meta]
    if lacking:
        raise WeightsFileError(
            f"single file {source!r} lacks {len(lacking)} weights of the {name}, first "
            f"{lacking[0]!r}"
        )


def _names_in(path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise WeightsFileError(
            f"{path} is not a safetensors file ({error}); pickled checkpoints can run code and are "
            "not loaded: convert it first"
        ) from error
