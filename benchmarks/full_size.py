"""Does the real size work? Stable Diffusion 1.4's architecture with random weights: erase, store, compose, restore.

    python benchmarks/full_size.py --out benchmarks/results/full_size.json

The weights cannot be had here, so nothing is learned about pictures: it shows that the code runs at this size, what it
takes of memory, what an increment weighs, and that restoring is exact. The published procedure's counts follow from
the settings. Ten minutes on two cores, about 12 GiB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from harness import Results
from transformers import CLIPTextConfig, CLIPTextModel

from multierase.base import Base, load_base
from multierase.composer import Composer
from multierase.decoupling import KeepList
from multierase.library import Library
from multierase.training import EraseSettings, erase


def stable_diffusion_1_4() -> Base:
    """The architecture as its configuration files state it; the tokenizer is the embedded base's, at 77 tokens."""
    torch.manual_seed(0)
    tokenizer = load_base("emoji", device="cpu").pipeline.tokenizer
    tokenizer.model_max_length = 77
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, sample_size=512,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return Base(pipeline, "stable-diffusion-v1-4, random weights")


def timed(function):
    began = time.perf_counter()
    result = function()
    return result, round(time.perf_counter() - began, 2)


def measure(base: Base, scope: str, folder: Path) -> dict:
    """Two steps of two concepts in ``scope``; then put on and taken off."""
    settings = EraseSettings(
        scope=scope, steps=2, batch_size=1, trajectories=1, sampler_steps=3, sampling_batch=1, stop_at=None
    )
    library = Library(folder / scope, create=True)
    pristine = {name: parameter.detach().clone() for name, parameter in base.unet.named_parameters()}
    report = {"erasures": []}
    for concept in ("Noto", "Twemoji"):
        increment, seconds = timed(lambda concept=concept: erase(base, concept, settings, progress=True))
        path = library.save(increment)
        report["erasures"].append(
            {"unet_evaluations": increment.info["unet_evaluations"], "seconds": seconds, "bytes": path.stat().st_size}
        )
    for solve in ("sum", "joint"):
        composer = Composer(base.unet, library, solve=solve, keep=KeepList.of(base.text, [], library))
        _, first = timed(lambda composer=composer: composer.erase("Noto", "Twemoji"))
        _, off = timed(composer.restore_all)
        _, again = timed(lambda composer=composer: composer.erase("Noto", "Twemoji"))
        composer.restore_all()
        exact = all(torch.equal(parameter, pristine[name]) for name, parameter in base.unet.named_parameters())
        report[solve] = {"put_on_first": first, "put_on": again, "taken_off": off, "restored_bit_exact": exact}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = Results(args.out, "0/1")
    base = stable_diffusion_1_4()
    report = {"benchmark": "full_size", "unet_parameters": sum(p.numel() for p in base.unet.parameters())}
    with tempfile.TemporaryDirectory() as folder:
        for scope in ("esd-x-strict", "esd-x"):
            report[scope] = results.get(scope, lambda scope=scope: measure(base, scope, Path(folder)))
            print(scope, report[scope], file=sys.stderr, flush=True)
    report["peak_memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)
    results.finish(report)


if __name__ == "__main__":
    main()
