"""Load a model of its family from a source of weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    DiffusionPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
)
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import Qwen3ForCausalLM, T5EncoderModel

from multierase.errors import DeviceError, WeightsFileError
from multierase.models.flux import Flux
from multierase.models.flux2 import Flux2Klein
from multierase.models.model import Model
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
    "Flux2KleinPipeline": Flux2Klein,
}
LONG_TOWERS = (T5EncoderModel, Qwen3ForCausalLM)
T5_MOST = 512  # tokens, in diffusers' pipelines; of Qwen3 too
# What only the single files of a family have in their parameters' names.
MARKS = {
    "FluxPipeline": "double_blocks.0.img_mod.lin.",  # neither FLUX.2's nor HunyuanVideo's
    "Flux2KleinPipeline": "double_stream_modulation_img.lin.",  # and FLUX.2 dev's
    "StableDiffusion3Pipeline": "joint_blocks.",
    "StableDiffusionXLPipeline": "conditioner.embedders.1.",
    "StableDiffusionPipeline": "cond_stage_model.",
}
GUIDANCE = "guidance_in."  # of FLUX.1 dev and FLUX.2 dev
TEXT_TOWERS = ("text_encoders.", "conditioner.", "cond_stage_model.")
TRANSFORMERS = {
    "FluxPipeline": FluxTransformer2DModel,
    "Flux2KleinPipeline": Flux2Transformer2DModel,
    "StableDiffusion3Pipeline": SD3Transformer2DModel,
}
# Where the rest of a pipeline is, for a file that holds the transformer alone. FLUX.2 klein's names
# tell neither its size nor whether it is distilled, so that its config has to be given.
WHOLE = {
    "FluxPipeline": "black-forest-labs/FLUX.1-dev",
    "StableDiffusion3Pipeline": "stabilityai/stable-diffusion-3.5-large",
}
SCHNELL = "black-forest-labs/FLUX.1-schnell"


def load_base(
    source: str | Path = "emoji",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    config: str | None = None,
    t5_length: int | None = None,
) -> Model:
    """Load a base model.

    Args:
        source: ``"emoji"`` (embedded), a diffusers folder, a ``.safetensors`` single file, or a hub
            id.
        device: where it runs; by default a GPU if there is one, else the CPU.
        dtype: the frozen weights' precision: ``float32``, ``float16`` or ``bfloat16``. Increments
            stay float32.
        config: for a single file, the folder or hub id of a pipeline of the same architecture,
            whose configuration and tokenizer are used. By default the file's contents decide which
            one is looked up on the hub.
        t5_length: see ``from_pipeline``.

    Raises:
        ValueError: for a dtype that is not in the list, an architecture that is not supported, or
            a length of T5 that cannot be.
        WeightsFileError: for a file that is not safetensors, or a folder that is not whole.
        DeviceError: for a device that is not there.
        FileNotFoundError: for a path that does not exist.
    """
    dtype, device = _dtype(dtype), _device(device)
    source = str(source)

    pipeline = _pipeline(source, dtype, config)
    try:
        pipeline = pipeline.to(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"{source!r} in {_name(dtype)} does not fit into the memory of {device}: try "
            "--dtype float16, or --device cpu"
        ) from error

    return from_pipeline(pipeline, source, t5_length=t5_length)


def from_pipeline(pipeline: DiffusionPipeline, name: str, *, t5_length: int | None = None) -> Model:
    """Take a diffusers pipeline that is loaded already; it is used as it is.

    Args:
        name: what results and increments call it.
        t5_length: tokens of a prompt that T5 reads, or Qwen3 in FLUX.2, in training and in
            pictures; by default as many as the family's pipeline does. Fewer take less memory and
            time.

    Raises:
        ValueError: for a pipeline of a family that is not known, or a length of T5 that cannot be.
    """
    kind = type(pipeline).__name__
    _require_known(kind, name)
    family = PIPELINES[kind]
    if t5_length is None:
        return family(pipeline, name)

    if not any(isinstance(part, LONG_TOWERS) for part in pipeline.components.values()):
        raise ValueError(
            f"{name} has neither T5 nor Qwen3 that could read {t5_length} tokens: leave it away"
        )
    if not 1 <= t5_length <= T5_MOST:
        raise ValueError(f"T5 or Qwen3 cannot read {t5_length} tokens: give 1 to {T5_MOST}")
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


def _is_path(source: str) -> bool:
    """Tell a path from a hub id, which is ``owner/name``."""
    # A folder on this disk comes first: a typing error must not be looked up on a hub.
    if (Path(source).expanduser() / INDEX).is_file():
        return True

    return bool(Path(source).suffix) or source.startswith((".", "/", "~")) or source.count("/") != 1


def _class_name(source: str) -> str:
    """Return the pipeline class that a folder's index names, or a hub id's."""
    if not Path(source).is_dir():
        return DiffusionPipeline.load_config(source)["_class_name"]

    index = Path(source) / INDEX
    try:
        return json.loads(index.read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsFileError(f"{index} cannot be read: {error!r}") from error


def _require_known(kind: str, source: str) -> None:
    if kind not in PIPELINES:
        raise ValueError(
            f"{source!r} is a {kind}, which is not supported; supported: {sorted(PIPELINES)}"
        )


def _from_folder(source: str, dtype: torch.dtype, **parts: Any) -> DiffusionPipeline:
    """Load a folder or a hub id; ``parts`` are there already."""
    try:
        kind = _class_name(source)
        _require_known(kind, source)
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
    # All names in one text: a mark is a part of some of them.
    names = "\n".join(_names_in(Path(source)))
    kind = next((kind for kind, mark in MARKS.items() if mark in names), None)
    if kind is None:
        raise ValueError(
            f"{source!r} is not the single file of a family that is known: {sorted(MARKS)}"
        )
    if kind == Flux2KleinPipeline.__name__:
        _require_klein(source, config, GUIDANCE in names)
    if config is not None and _is_path(config):
        _require_config_of(kind, source, config)

    try:
        if any(mark in names for mark in TEXT_TOWERS):
            pipeline = _whole_file(kind, source, dtype, config)
        else:
            pipeline = _transformer_file(kind, source, dtype, config, GUIDANCE in names)
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
    kind: str, source: str, dtype: torch.dtype, config: str | None
) -> DiffusionPipeline:
    local, pipeline = config is not None and Path(config).is_dir(), getattr(diffusers, kind)

    return pipeline.from_single_file(source, dtype=dtype, config=config, local_files_only=local)


def _transformer_file(
    kind: str, source: str, dtype: torch.dtype, config: str | None, guided: bool
) -> DiffusionPipeline:
    """Load a transformer alone, as is usual for large models; all else is the config's."""
    rest = config or (SCHNELL if kind == FluxPipeline.__name__ and not guided else WHOLE[kind])
    settings = TRANSFORMERS[kind].load_config(rest, subfolder="transformer")
    if guided is not settings.get("guidance_embeds", False):
        raise WeightsFileError(
            f"of {source!r} and its config {rest!r} one is FLUX.1 dev, whose guidance is an input, "
            "and the other is schnell: give the config of the same model"
        )

    local = Path(rest).is_dir()
    transformer = TRANSFORMERS[kind].from_single_file(
        source, dtype=dtype, config=rest, subfolder="transformer", local_files_only=local
    )
    return _from_folder(rest, dtype, transformer=transformer)


def _require_klein(source: str, config: str | None, guided: bool) -> None:
    if guided:
        raise ValueError(
            f"{source!r} is a single file of FLUX.2 dev, which is not supported; of FLUX.2 klein is"
        )
    if config is None:
        raise ValueError(
            f"{source!r} is a single file of FLUX.2 klein, and does not say which: give the folder "
            "or hub id of the same model (--base_config)"
        )


def _require_config_of(kind: str, source: str, config: str) -> None:
    if not Path(config).is_dir():
        raise FileNotFoundError(f"no config at {config!r}: give a pipeline's folder or a hub id")
    other = _class_name(config)
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
