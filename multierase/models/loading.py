"""Load a model of its family from a source of weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors import SafetensorError, safe_open

from multierase.errors import DeviceError, WeightsFileError
from multierase.models.model import Model
from multierase.models.stable_diffusion import StableDiffusion

EMBEDDED = ("emoji",)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PIPELINES: dict[str, Callable[[Any, str], Model]] = {"StableDiffusionPipeline": StableDiffusion}


def load_base(
    source: str | Path = "emoji",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    config: str | None = None,
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

    Raises:
        ValueError: for a dtype that is not in the list, or an architecture that is not supported.
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

    return from_pipeline(pipeline, source)


def from_pipeline(pipeline: DiffusionPipeline, name: str) -> Model:
    """Take a diffusers pipeline that is loaded already; it is used as it is.

    Args:
        name: what results and increments call it.

    Raises:
        ValueError: for a pipeline of a family that is not known.
    """
    kind = type(pipeline).__name__
    _require_known(kind, name)

    return PIPELINES[kind](pipeline, name)


def _pipeline(source: str, dtype: torch.dtype, config: str | None) -> DiffusionPipeline:
    if source in EMBEDDED:
        with resources.as_file(resources.files("multierase") / "assets" / source) as folder:
            return _from_folder(str(folder), dtype)
    if Path(source).is_file():
        return _from_single_file(source, dtype, config)

    if not _is_path(source):
        return _from_folder(source, dtype)
    folder = Path(source).expanduser()
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"no base at {source!r}: give one of {list(EMBEDDED)}, a diffusers folder (with "
            "model_index.json), a .safetensors file or a hub id such as "
            "'CompVis/stable-diffusion-v1-4'"
        )

    _require_known(_class_name(folder), source)
    return _from_folder(str(folder), dtype)


def _is_path(source: str) -> bool:
    """Tell a path from a hub id, which is ``owner/name``."""
    # A folder on this disk comes first: a typing error must not be looked up on a hub.
    if (Path(source).expanduser() / "model_index.json").is_file():
        return True

    return bool(Path(source).suffix) or source.startswith((".", "/", "~")) or source.count("/") != 1


def _class_name(folder: Path) -> str:
    try:
        return json.loads((folder / "model_index.json").read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsFileError(f"{folder}/model_index.json cannot be read: {error!r}") from error


def _require_known(kind: str, source: str) -> None:
    if kind not in PIPELINES:
        raise ValueError(
            f"{source!r} is a {kind}, which is not supported; supported: {sorted(PIPELINES)}"
        )


def _from_folder(source: str, dtype: torch.dtype) -> DiffusionPipeline:
    try:
        return StableDiffusionPipeline.from_pretrained(
            source, dtype=dtype, safety_checker=None, trust_remote_code=False
        )
    except (OSError, SafetensorError) as error:
        if Path(source).is_dir():
            raise WeightsFileError(
                f"base {source!r} is damaged, or not complete: {error}"
            ) from error
        raise FileNotFoundError(f"cannot load base {source!r}: {error}") from error


def _from_single_file(source: str, dtype: torch.dtype, config: str | None) -> DiffusionPipeline:
    _require_safetensors(Path(source))
    local = config is not None and Path(config).is_dir()

    return StableDiffusionPipeline.from_single_file(
        source, dtype=dtype, config=config, local_files_only=local
    )


def _require_safetensors(path: Path) -> None:
    try:
        with safe_open(path, "pt"):
            pass
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
