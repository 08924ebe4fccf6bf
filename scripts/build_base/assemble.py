"""Put the trained parts together as an ordinary diffusers folder in the package, in half precision.

    python scripts/build_base/assemble.py --work build/

Writes ``multierase/assets/emoji/`` and ``multierase/assets/judge.safetensors``. The model card is written by
``evaluate.py``, which measures what it says.
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

from multierase.base import KNOWN_PROMPTS
from multierase.concepts import (
    EMOJI_STUDIOS,
    EMOJI_SUBJECTS,
    STUDIO_AND_SUBJECT,
    STUDIO_ONLY,
    SUBJECT_ONLY,
    fill,
)

ASSETS = Path(__file__).parents[2] / "multierase" / "assets"


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    tower = CLIPTextModel(clip.config.text_config)
    own = tower.text_model if hasattr(tower, "text_model") else tower
    own.load_state_dict(clip.text_model.state_dict())
    return tower


def write_known_prompts(path: Path) -> None:
    """What the base is asked, for erasures to keep: every template, with a quarter of the subjects."""
    rows = [(prompt, studio, "") for studio in EMOJI_STUDIOS for prompt in fill(STUDIO_ONLY, studio, "")]
    rows += [(prompt, "", subject) for subject in EMOJI_SUBJECTS for prompt in fill(SUBJECT_ONLY, "", subject)]
    rows += [
        (prompt, studio, subject)
        for studio in EMOJI_STUDIOS
        for subject in EMOJI_SUBJECTS[::4]
        for prompt in fill(STUDIO_AND_SUBJECT, studio, subject)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("prompt", "studio", "subject"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build"))
    parser.add_argument("--vae", default="vae-decoder", help="the VAE's folder in --work")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    args = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(args.work / args.vae)
    vae.register_to_config(scaling_factor=json.loads((args.work / "latents.json").read_text())["scaling_factor"])
    clip = CLIPModel.from_pretrained(args.work / "clip")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_tower(clip),
        tokenizer=CLIPTokenizer.from_pretrained(args.work / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(args.work / "unet"),
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    args.assets.mkdir(parents=True, exist_ok=True)
    folder = args.assets / "emoji"
    card = (folder / "README.md").read_text() if (folder / "README.md").exists() else None
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    clip.half().save_pretrained(folder / "clip")
    write_known_prompts(folder / KNOWN_PROMPTS)
    if card is not None:
        (folder / "README.md").write_text(card)
    judge = args.work / "judge.safetensors"
    if judge.exists():
        shutil.copy(judge, args.assets / "judge.safetensors")
    size = sum(file.stat().st_size for file in args.assets.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB with the judge")


if __name__ == "__main__":
    main()
