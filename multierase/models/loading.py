"""Load a model of its family from a source of weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel, StableDiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import T5EncoderModel

from multierase.errors import DeviceError, WeightsFileError
from multierase.models.flux import Flux
from multierase.models.model import Model
from multierase.models.resolution import require_resolution
from multierase.models.offload import offload
from multierase.models.sd3 import StableDiffusion3
from multierase.models.sdxl import StableDiffusionXL
from multierase.models.stable_diffusion import StableDiffusion

EMBEDDED, INDEX = ("emoji",), "model_index.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PIPELINES: dict[str, Callable[..., Model]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
DENOISERS = ("unet", "transformer")
T5_MOST = 512  # tokens, in diffusers' pipelines
# What only the single files of a family have in their parameters' names.
MARKS = {
    "FluxPipeline": "double_blocks.0.img_mod.lin.",  # neither FLUX.2's nor HunyuanVideo's
    "StableDiffusion3Pipeline": "joint_blocks.",
    "StableDiffusionXLPipeline": "conditioner.embedders.1.",
    "StableDiffusionPipeline": "cond_stage_model.",
}
GUIDANCE = "guidance_in."  # of FLUX.1 dev
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


def load_base(
    source: str | Path = "emoji",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    config: str | None = None,
    t5_length: int | None = None,
    resolution: int | None = None,
    offload: bool = False,
) -> Model:
    """Load a base model.

    Args:
        source: ``"emoji"`` (embedded), a diffusers folder, a ``.safetensors`` single file, or a hub
            id.
        device: where it runs; by default a GPU if there is one, else the CPU.
        dtype: the frozen weights' precision: ``float32``, ``float16`` or ``bfloat16``. Increments
            stay float32.
        config: for a single file, the folder or hub id of a pipeline of the same architecture,
            whose configuration and tokenizers are used, and for a transformer's file the parts that
            the file lacks. By default the file's contents decide which one is looked up on the hub.
        t5_length, resolution: see ``from_pipeline``.
        offload: keep text towers and VAE on the CPU while they do not compute; the denoiser stays
            on the device.

    Raises:
        ValueError: for a dtype that is not in the list, an architecture that is not supported, or
            a length of T5 or a resolution that cannot be.
        WeightsFileError: for a file that is not safetensors, or a folder that is not whole.
        DeviceError: for a device that is not there.
        FileNotFoundError: for a path that does not exist.
    """
    dtype, device = _dtype(dtype), _device(device)
    source = str(source)

    pipeline = _pipeline(source, dtype, config)
    try:
        _place(pipeline, device, offload)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"{source!r} in {_name(dtype)} does not fit into the memory of {device}: try "
            "--offload, --dtype float16, or --device cpu"
        ) from error

    return from_pipeline(pipeline, source, t5_length=t5_length, resolution=resolution)


def from_pipeline(
    pipeline: DiffusionPipeline,
    name: str,
    *,
    t5_length: int | None = None,
    resolution: int | None = None,
) -> Model:
    """Take a diffusers pipeline that is loaded already; it is used as it is.

    Args:
        name: what results and increments call it.
        t5_length: tokens of a prompt that T5 reads, in training and in pictures; by default as many
            as the family's pipeline does. Fewer take less memory and time.
        resolution: pixels on a side, in training and in pictures; by default the base's own.

    Raises:
        ValueError: for a pipeline of a family that is not known, or a length of T5 or a resolution
            that cannot be.
    """
    model = _model(pipeline, name, t5_length)
    if resolution is not None:
        require_resolution(model, resolution)
        model.resolution = resolution

    return model


def _model(pipeline: DiffusionPipeline, name: str, t5_length: int | None) -> Model:
    kind = type(pipeline).__name__
    _require_known(kind, name)
    family = PIPELINES[kind]
    if t5_length is None:
        return family(pipeline, name)

    if not any(isinstance(part, T5EncoderModel) for part in pipeline.components.values()):
        raise ValueError(f"{name} has no T5 that could read {t5_length} tokens: leave it away")
    if not 1 <= t5_length <= T5_MOST:
        raise ValueError(f"T5 cannot read {t5_length} tokens: give 1 to {T5_MOST}")
    return family(pipeline, name, t5_length)


def _pipeline(source: str, dtype: torch.dtype, config: str | None) -> DiffusionPipeline:
    if source in EMBEDDED:
        with resources.as_file(resources.files("multierase") / "assets" / source) as folder:
            return _from_folder(str(folder), dtype)
    if Path(source).is_file():
        return _from_single_file(source, dtype, config)

    if not _is_path(source):
        return _from_folder(source, dtype)
    folder = Path(source).expanduser()
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"no base at {source!r}: give one of {list(EMBEDDED)}, a diffusers folder (with "
            "model_index.json), a .safetensors file or a hub id such as "
            "'CompVis/stable-diffusion-v1-4'"
        )

    return _from_folder(str(folder), dtype)


def _place(pipeline: DiffusionPipeline, device: torch.device, away: bool) -> None:
    if not away:
        pipeline.to(device)
        return

    denoisers = [part for name, part in pipeline.components.items() if name in DENOISERS]
    offload(pipeline, denoisers, device)


def _is_path(source: str) -> bool:
    """Tell a path from a hub id, which is ``owner/name``."""
    # A folder on this disk comes first: a typing error must not be looked up on a hub.
    if (Path(source).expanduser() / INDEX).is_file():
        return True

    return bool(Path(source).suffix) or source.startswith((".", "/", "~")) or source.count("/") != 1


def _index(source: str) -> tuple[str, dict[str, Any]]:
    """Return the pipeline class that a folder's index names, or a hub id's; and the index."""
    if not Path(source).is_dir():
        index = DiffusionPipeline.load_config(source)
        return index["_class_name"], index

    path = Path(source) / INDEX
    try:
        index = json.loads(path.read_text("utf-8"))
        return index["_class_name"], index
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsFileError(f"{path} cannot be read: {error!r}") from error


def _require_known(kind: str, source: str) -> None:
    if kind not in PIPELINES:
        raise ValueError(
            f"{source!r} is a {kind}, which is not supported; supported: {sorted(PIPELINES)}"
        )


def _from_folder(source: str, dtype: torch.dtype, **parts: Any) -> DiffusionPipeline:
    """Load a folder or a hub id; ``parts`` are there already."""
    try:
        kind, index = _index(source)
        _require_known(kind, source)
        # Diffusers writes that Stable Diffusion 3 has no T5, and asks for it when it reads that.
        absent = dict.fromkeys(name for name, value in index.items() if value == [None, None])
        parts = absent | parts
        if kind == StableDiffusionPipeline.__name__:
            parts["safety_checker"] = None
        pipeline = getattr(diffusers, kind)
        return pipeline.from_pretrained(source, dtype=dtype, trust_remote_code=False, **parts)
    except (OSError, SafetensorError) as error:
        if Path(source).is_dir():
            raise WeightsFileError(
                f"base {source!r} is damaged, or not complete: {error}"
            ) from error
        raise FileNotFoundError(f"cannot load base {source!r}: {error}") from error


def _from_single_file(source: str, dtype: torch.dtype, config: str | None) -> DiffusionPipeline:
    names = _names_in(Path(source))
    # All names in one text: a mark is a part of some of them.
    text = "\n".join(names)
    kind = next((kind for kind, mark in MARKS.items() if mark in text), None)
    if kind is None:
        raise ValueError(
            f"{source!r} is not the single file of a family that is known: {sorted(MARKS)}"
        )
    if any(mark in text for mark in SCALES):
        raise WeightsFileError(
            f"{source!r} is quantised, and has scales beside its weights, which cannot be applied "
            "here: give the file of plain float8, float16 or bfloat16"
        )
    if config is not None and _is_path(config):
        _require_config_of(kind, source, config)

    try:
        if kind in BESIDE:
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

    _, index = _index(rest)
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
    return _from_folder(rest, dtype, **parts)


def _require_same_guidance(kind: str, source: str, rest: str, names: list[str]) -> None:
    if PIPELINES[kind] is not Flux:
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
    other, _ = _index(config)
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


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: give one of {sorted(DTYPES)}")

    return DTYPES[dtype]


def _device(device: str | torch.device | None) -> torch.device:
    available = torch.cuda.is_available()
    try:
        chosen = torch.device(device or ("cuda" if available else "cpu"))
    except RuntimeError as error:
        raise DeviceError(f"device {device!r}: give cpu, cuda or cuda:0") from error
    if chosen.type == "cuda" and not available:
        raise DeviceError(
            f"device {str(device)!r}: this machine or this torch has no CUDA; give cpu"
        )

    return chosen


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
