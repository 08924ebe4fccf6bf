"""Load a model of its family from a source of weights."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from transformers import Qwen3ForCausalLM, T5EncoderModel

from multierase.errors import DeviceError
from multierase.models.folders import PIPELINES, from_folder, require_known
from multierase.models.model import Model
from multierase.models.offload import offload
from multierase.models.resolution import require_resolution
from multierase.models.sd3 import StableDiffusion3
from multierase.models.single_files import from_single_file
from multierase.models.sources import EMBEDDED, INDEX, embedded_folder, is_path

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LONG_TOWERS = (T5EncoderModel, Qwen3ForCausalLM)
T5_MOST = 512  # tokens, in diffusers' pipelines; of Qwen3 too
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
        source: ``"emoji"`` or ``"type"`` (embedded), a diffusers folder, a ``.safetensors`` single
            file, or a hub id.
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
    if t5_length is None:
        t5_length = EMBEDDED.get(source, {}).get("t5_length")

    pipeline = _pipeline(source, dtype, config)
    model = from_pipeline(pipeline, source, t5_length=t5_length, resolution=resolution)
    try:
        _place(model, device, offload)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"{source!r} in {_name(dtype)} does not fit into the memory of {device}: try "
            "--offload, --dtype float16, or --device cpu"
        ) from error

    return model


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
        t5_length: tokens of a prompt that T5 reads, or Qwen3 in FLUX.2, in training and in
            pictures; by default as many as the family's pipeline does. Fewer take less memory and
            time. Of Stable Diffusion 3 without T5, the rows of zeros in its place.
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
    require_known(kind, name)
    family = PIPELINES[kind]
    if t5_length is None:
        return family(pipeline, name)

    reads = any(isinstance(part, LONG_TOWERS) for part in pipeline.components.values())
    if not reads and family is not StableDiffusion3:
        raise ValueError(
            f"{name} has neither T5 nor Qwen3 that could read {t5_length} tokens: leave it away"
        )
    if not 1 <= t5_length <= T5_MOST:
        raise ValueError(f"T5 or Qwen3 cannot read {t5_length} tokens: give 1 to {T5_MOST}")
    return family(pipeline, name, t5_length)


def _pipeline(source: str, dtype: torch.dtype, config: str | None) -> DiffusionPipeline:
    if source in EMBEDDED:
        return from_folder(str(embedded_folder(source)), dtype)
    if Path(source).is_file():
        return from_single_file(source, dtype, config)

    if not is_path(source):
        return from_folder(source, dtype)
    folder = Path(source).expanduser()
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"no base at {source!r}: give one of {list(EMBEDDED)}, a diffusers folder (with "
            "model_index.json), a .safetensors file or a hub id such as "
            "'CompVis/stable-diffusion-v1-4'"
        )

    return from_folder(str(folder), dtype)


def _place(model: Model, device: torch.device, away: bool) -> None:
    if away:
        offload(model, device)
    else:
        model.pipeline.to(device)


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
