"""What does an erasure take on a GPU in each family, at its full size?

    python benchmarks/family_memory.py --out benchmarks/results/family_memory.json

Needs a GPU. The weights are random, in bfloat16, by the published configurations, text towers and
VAE included; pictures have the base's own size. Each case is a whole ``erase`` of a few steps by
a bare name, or of a name alone (``kind: none``), which asks for less text. For each: the most
memory that PyTorch held on the GPU, seconds, and the seconds of a step. ``--offload`` is on, so
that text towers and VAE are not there while the denoiser trains; ``others_gib`` is what they are.
Prints a row for each case on stderr and one JSON object on stdout.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from dictionary_cost import VOCABULARY
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
)
from family_sizes import BASES
from harness import Results, parser
from sdxl import LENGTH, text_config
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from multierase import EraseSettings, Model, erase, from_pipeline, load_base
from multierase.models.offload import offload
from multierase.training import trial

GPU = torch.device("cuda")
GIB = 2**30
NAME = "Noto"
LATENT_CHANNELS = 16  # of Stable Diffusion 3 and FLUX.1


@dataclass(frozen=True)
class Case:
    """One erasure."""

    base: str
    scope: str
    settings: EraseSettings
    t5_length: int | None = None

    def erase_with(self) -> EraseSettings:
        return replace(self.settings, scope=self.scope)


QUICK = EraseSettings(steps=4, kind="none", stop_at=None)
SMALL = replace(QUICK, batch_size=1, trajectories=2, sampling_batch=1)
WHOLE = EraseSettings(steps=4, kind="artist", stop_at=None)


def cases(base: str) -> Iterator[Case]:
    """Yield what is measured on one base."""
    unet = "XL" in base
    exact = "esd-x-strict" if unet else "text-input"
    length = None if unet else 128
    yield Case(base, exact, QUICK, length)
    yield Case(base, exact, SMALL, length)
    yield Case(base, exact, replace(SMALL, gradient_checkpointing=True), length)
    yield Case(base, "esd-x", replace(SMALL, gradient_checkpointing=True), length)
    if "medium" in base or unet:
        eight = replace(SMALL, gradient_checkpointing=True, optimizer="adam8bit")
        yield Case(base, "esd-x", eight, length)
    yield Case(base, "full", replace(SMALL, gradient_checkpointing=True), length)
    if unet or "FLUX" in base:
        yield Case(base, exact, WHOLE, length)


@contextmanager
def on_the_gpu() -> Iterator[None]:
    """Make modules on the GPU, in bfloat16, for a block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with GPU:
            yield
    finally:
        torch.set_default_dtype(before)


def clip(tokenizer: CLIPTokenizer, width: int, layers: int, pooled: int | None = None) -> Any:
    """Return a CLIP text tower, with a pooled vector or without."""
    config = text_config(
        tokenizer, width, layers=layers, vocabulary=VOCABULARY, pooled=pooled or width
    )

    return CLIPTextModelWithProjection(config) if pooled else CLIPTextModel(config)


def t5_xxl() -> T5EncoderModel:
    config = T5Config(
        vocab_size=32_128,
        d_model=4096,
        d_kv=64,
        d_ff=10_240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )

    return T5EncoderModel(config)


def t5_tokenizer() -> T5Tokenizer:
    """Return a tokenizer of letters, so that a sentence has as many tokens as letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -5.0) for letter in letters + letters.upper() + ".,'-0123456789:;\"!?"]

    return T5Tokenizer(vocab=pieces, extra_ids=0)


def vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=2,
        sample_size=1024,
        shift_factor=0.1 if channels == LATENT_CHANNELS else None,
    )


def stable_diffusion_xl(build: Callable[[], Any], tokenizer: CLIPTokenizer) -> Any:
    return StableDiffusionXLPipeline(
        vae=vae(4),
        text_encoder=clip(tokenizer, 768, 12),
        text_encoder_2=clip(tokenizer, 1280, 32, 1280),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=build(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    )


def stable_diffusion_3(build: Callable[[], Any], tokenizer: CLIPTokenizer) -> Any:
    return StableDiffusion3Pipeline(
        transformer=build(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(LATENT_CHANNELS),
        text_encoder=clip(tokenizer, 768, 12, 768),
        tokenizer=tokenizer,
        text_encoder_2=clip(tokenizer, 1280, 32, 1280),
        tokenizer_2=tokenizer,
        text_encoder_3=t5_xxl(),
        tokenizer_3=t5_tokenizer(),
    )


def flux(build: Callable[[], Any], tokenizer: CLIPTokenizer) -> Any:
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(LATENT_CHANNELS),
        text_encoder=clip(tokenizer, 768, 12),
        tokenizer=tokenizer,
        text_encoder_2=t5_xxl(),
        tokenizer_2=t5_tokenizer(),
        transformer=build(),
    )


PIPELINES = {
    "Stable Diffusion XL": stable_diffusion_xl,
    "Stable Diffusion 3.5 medium": stable_diffusion_3,
    "Stable Diffusion 3.5 large": stable_diffusion_3,
    "FLUX.1 dev": flux,
}


def pipeline_of(base: str) -> Any:
    """Return a whole pipeline of the published sizes, offloaded."""
    tokenizer = load_base("emoji", device="cpu").pipeline.tokenizer
    tokenizer.model_max_length = LENGTH
    with on_the_gpu():
        pipeline = PIPELINES[base](BASES[base][1], tokenizer)

    return pipeline.to(torch.bfloat16)


def bytes_of(part: Any) -> int:
    return sum(one.numel() * one.element_size() for one in part.parameters())


def measure(case: Case, model: Model) -> dict[str, Any]:
    """Erase a name; return what it took."""
    gc.collect()
    torch.cuda.empty_cache()
    before, began = _noting_peaks(model), time.perf_counter()
    row = {"scope": case.scope, "t5_length": case.t5_length, **_changed(case.settings)}
    try:
        increment = erase(model, NAME, case.erase_with(), progress=True)
    except Exception as error:  # a case that does not fit is a result, too
        return {**row, "error": f"{type(error).__name__}: {error}"[:300]}

    made = increment.provenance
    return {
        **row,
        "rank": made.settings["rank"],
        "peak_before_gib": round(max(before) / 1024, 2),
        "peak_gib": round(made.cost.peak_memory_mib / 1024, 2),
        "seconds": round(time.perf_counter() - began, 1),
        "training_seconds": made.cost.seconds,
        "evaluations": made.cost.evaluations,
    }


def _noting_peaks(model: Model) -> list[int]:
    """Return a list that gets the peak of all that comes before a training, which resets it."""
    peaks, reset = [], model.reset_peak_memory
    reset()

    def noted() -> None:
        peaks.append(model.peak_memory())
        reset()

    model.reset_peak_memory = noted
    return peaks


def _changed(settings: EraseSettings) -> dict[str, Any]:
    given, usual = asdict(settings), asdict(EraseSettings())

    return {name: value for name, value in given.items() if value != usual[name]}


def measure_base(base: str, results: Results) -> None:
    """Measure all cases of one base."""
    pipeline = pipeline_of(base)
    model = from_pipeline(pipeline, base)
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    denoiser = sum(map(bytes_of, model.components.values()))
    others = sum(map(bytes_of, modules)) - denoiser
    sizes = {"denoiser_gib": round(denoiser / GIB, 2), "others_gib": round(others / GIB, 2)}
    results.get(f"{base}: sizes", lambda: sizes)

    offload(model, GPU)
    for number, case in enumerate(cases(base)):
        model = from_pipeline(pipeline, f"{base}, random weights", t5_length=case.t5_length)
        key = f"{base}: {number}"
        row = results.get(key, lambda c=case, m=model: measure(c, m))
        print(key, row, file=sys.stderr, flush=True)


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument("--bases", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    arguments = options.parse_args()
    if not torch.cuda.is_available():
        options.error("this benchmark needs a GPU")
    results = Results(arguments.out)
    # Random weights understand no name, so every one passes.
    trial.DRAWN = 0.0

    for base in arguments.bases:
        measure_base(base, results)
        gc.collect()
        torch.cuda.empty_cache()

    results.finish({"benchmark": "family_memory", "table": results.done})


if __name__ == "__main__":
    main()
