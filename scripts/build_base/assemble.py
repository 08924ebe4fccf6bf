"""Put the trained parts together as an ordinary diffusers folder in the package.

    python scripts/build_base/assemble.py --work build/

Writes ``emoji/`` and ``emoji-judge.safetensors`` in ``multierase/assets/``, in half precision; what
is written by hand beside them stays. The model card is written by ``evaluate.py``, which measures
what it says.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from train_unet import SCHEDULE
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from multierase.emoji import (
    STUDIO_AND_SUBJECT,
    STUDIO_ONLY,
    STUDIOS,
    SUBJECT_ONLY,
    SUBJECTS,
    fill,
)
from multierase.models.model import KNOWN_PROMPTS

ASSETS = Path(__file__).parents[2] / "multierase" / "assets"


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """Return CLIP's text tower alone."""
    tower = CLIPTextModel(clip.config.text_config)
    own = tower.text_model if hasattr(tower, "text_model") else tower
    own.load_state_dict(clip.text_model.state_dict())

    return tower


def known_prompts() -> list[tuple[str, str, str]]:
    """Return what the base is asked, for erasures to keep: prompt, studio, subject.

    Every template, with a quarter of the subjects where there is a studio.
    """
    rows = []
    for studio in STUDIOS:
        rows += [(prompt, studio, "") for prompt in fill(STUDIO_ONLY, studio, "")]
    for subject in SUBJECTS:
        rows += [(prompt, "", subject) for prompt in fill(SUBJECT_ONLY, "", subject)]
    for studio in STUDIOS:
        for subject in SUBJECTS[::4]:
            prompts = fill(STUDIO_AND_SUBJECT, studio, subject)
            rows += [(prompt, studio, subject) for prompt in prompts]

    return rows


def assembled(work: Path, vae_folder: str, clip: CLIPModel) -> StableDiffusionPipeline:
    """Return the pipeline of the trained parts."""
    vae = AutoencoderKL.from_pretrained(work / vae_folder)
    latents = json.loads((work / "latents.json").read_text())
    vae.register_to_config(scaling_factor=latents["scaling_factor"])

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_tower(clip),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet"),
        scheduler=DDIMScheduler(
            **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build"))
    parser.add_argument("--vae", default="vae-decoder", help="the VAE's folder in --work")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    work, assets = arguments.work, arguments.assets
    clip = CLIPModel.from_pretrained(work / "clip")
    pipeline = assembled(work, arguments.vae, clip)

    folder = assets / "emoji"
    assets.mkdir(parents=True, exist_ok=True)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    clip.half().save_pretrained(folder / "clip")
    with (folder / KNOWN_PROMPTS).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("prompt", "studio", "subject"), *known_prompts()])

    judge = work / "judge.safetensors"
    if judge.exists():
        shutil.copy(judge, assets / "emoji-judge.safetensors")
    size = sum(file.stat().st_size for file in assets.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB with the judge")


if __name__ == "__main__":
    main()
