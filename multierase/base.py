"""The base: a frozen Stable Diffusion from wherever it is; the only module that knows one version from another."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import SafetensorError, safe_open

from multierase.concepts import TaggedPrompt, read_prompts
from multierase.text import TextEncoder

KNOWN_PROMPTS = "prompts.csv"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Relative rounding error of a cast, per weight; a random projection of many weights moves by less than four of these.
ROUNDING = {"float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}


class Base:
    """A frozen text-to-image model: U-Net, VAE, text encoder and noise schedule.

    ``pipeline`` is the ordinary diffusers pipeline that all of it came from. There is one U-Net: a student is this one
    with other values for some of its weights (see ``predict_noise``).
    """

    def __init__(self, pipeline: StableDiffusionPipeline, name: str):
        self.pipeline, self.name = pipeline, name
        self.unet = pipeline.unet.eval().requires_grad_(False)
        self.vae = pipeline.vae.eval().requires_grad_(False)
        self.text = TextEncoder(pipeline.tokenizer, pipeline.text_encoder.eval().requires_grad_(False))
        pipeline.set_progress_bar_config(disable=True)

    @property
    def known_prompts(self) -> list[TaggedPrompt]:
        """What this base is known to be asked: ``prompts.csv`` in its folder, if it has one."""
        path = Path(self.pipeline.config.get("_name_or_path", "")) / KNOWN_PROMPTS
        return read_prompts(path) if path.is_file() else []

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config = self.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    def sampler(self, steps: int) -> DDIMScheduler:
        """A DDIM scheduler (deterministic, one evaluation a step) over the model's own noise schedule."""
        scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        if not 1 <= steps <= scheduler.config.num_train_timesteps:
            raise ValueError(f"{steps} sampler steps: give 1 to {scheduler.config.num_train_timesteps}")
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler

    def forget_peak_memory(self) -> None:
        """``peak_memory`` counts from here; on the CPU, where only the process is known, from its start."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory(self) -> int:
        """The most that was held, in MiB: on a GPU of its memory, else of the process's."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) // 2**20
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)

    def predict_noise(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        text: torch.Tensor,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """``ε(x_t, c, t)``, whatever the checkpoint itself predicts.

        Args:
            x_t: ``(b, c, h, w)`` latents.
            t: ``(b,)`` timesteps, in scheduler steps.
            text: ``(b, l, d)`` text embeddings.
            weights: values that take the place of the U-Net's own for this call: a student's. Gradients flow to them.
        """
        inputs = (x_t.to(self.dtype), t, text.to(self.dtype))
        if weights is None:
            output = self.unet(*inputs, return_dict=False)[0]
        else:
            output = torch.func.functional_call(self.unet, dict(weights), inputs, {"return_dict": False})[0]
        if self.pipeline.scheduler.config.prediction_type == "v_prediction":
            signal = self.pipeline.scheduler.alphas_cumprod.to(output.device)[t].view(-1, 1, 1, 1)
            output = signal.sqrt().to(output.dtype) * output + (1 - signal).sqrt().to(output.dtype) * x_t
        return output


def load_base(
    source: str | Path = "emoji",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    config: str | None = None,
) -> Base:
    """Load a base model.

    Args:
        source: ``"emoji"`` (embedded), a diffusers folder, a ``.safetensors`` single file, or a hub id.
        device: where it runs; a GPU if there is one, else the CPU, by default.
        dtype: the frozen weights' precision: ``float32``, ``float16`` or ``bfloat16``. Increments stay float32.
        config: for a single file, the folder or hub id of a pipeline of the same architecture, whose configuration
            and tokenizer are used; looked up on the hub by the file's contents where not given.

    Raises:
        ValueError: for a dtype not in the list, a file that is not safetensors, or an architecture not supported.
        FileNotFoundError: where a path does not exist.
    """
    dtype = _dtype(dtype)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source = str(source)
    if source == "emoji":
        with resources.as_file(resources.files("multierase") / "assets" / "emoji") as folder:
            pipeline = StableDiffusionPipeline.from_pretrained(str(folder), dtype=dtype)
    elif Path(source).is_file():
        _require_safetensors(Path(source))
        pipeline = StableDiffusionPipeline.from_single_file(
            source, dtype=dtype, config=config, local_files_only=config is not None and Path(config).is_dir()
        )
    elif Path(source).suffix or source.startswith((".", "/", "~")) or source.count("/") != 1:
        if not (Path(source).expanduser() / "model_index.json").is_file():
            raise FileNotFoundError(
                f"no base at {source!r}: give 'emoji', a diffusers folder (with model_index.json), a .safetensors file "
                "or a hub id such as 'CompVis/stable-diffusion-v1-4'"
            )
        pipeline = _from_pretrained(str(Path(source).expanduser()), dtype)
    else:
        pipeline = _from_pretrained(source, dtype)
    return Base(pipeline.to(device), source)


def _from_pretrained(source: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(source, dtype=dtype, safety_checker=None)
    except OSError as error:
        raise FileNotFoundError(f"cannot load base {source!r}: {error}") from error
    return pipeline


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: give one of {sorted(DTYPES)}")
    return DTYPES[dtype]


def _require_safetensors(path: Path) -> None:
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}); pickled checkpoints can run code and are not loaded: convert "
            "it first"
        ) from error


@dataclass(frozen=True)
class Fingerprint:
    """Which base some increment belongs to: per touched tensor a digest, and a sketch that survives a cast.

    The digest says "the same bits". A base that was erased in float32 is served in float16 all the same, so the sketch,
    ``(root mean square, projection on a fixed random direction)``, says "the same weights up to a cast's rounding".
    """

    name: str
    dtype: str
    digests: Mapping[str, str]
    sketches: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, name: str, tensors: Mapping[str, torch.Tensor]) -> Fingerprint:
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
        return cls(
            name=name,
            dtype=max(dtypes, key=lambda dtype: ROUNDING.get(dtype, 0)),
            digests={key: _digest(tensor) for key, tensor in tensors.items()},
            sketches={key: _sketch(tensor) for key, tensor in tensors.items()},
        )

    def differing(self, other: Fingerprint) -> list[str]:
        """Parameters in both whose base weights are not the same ones, up to the coarser of the two dtypes."""
        tolerance = 4 * max(ROUNDING[self.dtype], ROUNDING[other.dtype])
        return sorted(
            key
            for key in self.digests.keys() & other.digests.keys()
            if self.digests[key] != other.digests[key]
            and (self.dtype == other.dtype or not _near(self.sketches[key], other.sketches[key], tolerance))
        )


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(data).hexdigest()[:16]


def _sketch(tensor: torch.Tensor) -> tuple[float, float]:
    flat = tensor.detach().cpu().flatten().double()
    # Signs from an integer hash of the position: the same on every platform and in every torch version.
    position = torch.arange(flat.numel(), dtype=torch.int64)
    signs = (((position * 2654435761 + 40503) >> 13) & 1).double() * 2 - 1
    projection = (flat * signs).sum().item() / math.sqrt(flat.numel())
    return flat.square().mean().sqrt().item(), projection


def _near(a: tuple[float, float], b: tuple[float, float], tolerance: float) -> bool:
    scale = max(a[0], b[0])
    return all(abs(x - y) <= tolerance * scale for x, y in zip(a, b, strict=True))
