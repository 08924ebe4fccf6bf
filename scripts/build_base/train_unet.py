"""Train the base's U-Net on the VAE's latents and the frozen text encoder's embeddings.

    python scripts/build_base/train_unet.py --work build/

Epsilon prediction under Stable Diffusion's scaled-linear schedule, a tenth of the prompts empty, an
exponential moving average of the weights. Writes ``build/unet/`` (the average) and
``build/latents.json`` (the VAE's scaling factor). An hour and a half on one core; a checkpoint
every 250 steps, from which it goes on when started again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from renders import (
    SHIFTS,
    Checkpoint,
    Renders,
    learning_rate,
    load_renders,
    seeded,
    set_rate,
    shift,
    training_parser,
)
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPModel, CLIPTokenizer

from multierase.emoji import STUDIO_AND_SUBJECT, STUDIO_ONLY, SUBJECT_ONLY, fill

CONFIG = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": 256,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
EMPTY = 0.1  # share of prompts
KINDS = {STUDIO_AND_SUBJECT: 0.75, SUBJECT_ONLY: 0.15, STUDIO_ONLY: 0.10}  # of the others
# These two drew many subjects nearly alike, and guidance draws a prompt that names no studio to
# where drawings agree: their pictures get fewer such captions, so that the prompts spread.
PLAIN = {"Twemoji": 0.5, "EmojiOne": 0.5}

Rows = dict[tuple[str, ...], torch.Tensor]
"""For each kind of template: ``(studio, subject, template)`` rows of the captions' embeddings."""


@torch.no_grad()
def encode_pictures(work: Path, renders: Renders) -> tuple[torch.Tensor, float]:
    """Encode every picture in every shift.

    Returns:
        Latents ``(studio, subject, shift, 8, 8, 8)`` in units of their deviation, and the factor
        that gave them.
    """
    vae = AutoencoderKL.from_pretrained(work / "vae-whole")
    flat, latents = renders.images.flatten(0, 1), []
    for down in SHIFTS:
        for across in tqdm(SHIFTS, desc=f"latents, shift {down:+d}", leave=False):
            batches = [shift(batch, down, across) for batch in flat.split(64)]
            latents.append(torch.cat([vae.encode(b).latent_dist.mode() for b in batches]))

    factor = 1 / torch.stack(latents).std().item()
    stacked = torch.stack(latents, dim=1) * factor
    return stacked.unflatten(0, renders.images.shape[:2]), factor


@torch.no_grad()
def encode_captions(work: Path, renders: Renders) -> tuple[dict[str, int], torch.Tensor]:
    """Encode every caption.

    Returns:
        By caption its row in ``(caption, 16, 256)`` text embeddings; the empty prompt is row 0.
    """
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    tower = CLIPModel.from_pretrained(work / "clip").text_model
    templates = tuple(template for kind in KINDS for template in kind)
    every: dict[str, None] = {}
    for studio in renders.studios:
        for subject in renders.subjects:
            every |= dict.fromkeys(fill(templates, studio, subject))

    texts = ["", *every]
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    batches = tokens.split(256)
    embeddings = torch.cat([tower(input_ids=batch).last_hidden_state for batch in batches])
    return {text: row for row, text in enumerate(texts)}, embeddings


def caption_rows(renders: Renders, rows: dict[str, int]) -> Rows:
    """Return the rows of all captions by kind."""
    found = {}
    for kind in KINDS:
        table = []
        for studio in renders.studios:
            captions = [fill(kind, studio, subject) for subject in renders.subjects]
            table.append([[rows[caption] for caption in each] for each in captions])
        found[kind] = torch.tensor(table)

    return found


def draw_rows(
    by_kind: Rows,
    plain: torch.Tensor,
    studio: torch.Tensor,
    subject: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw a caption for each picture: its kind, then its template, by chance; or none.

    Args:
        plain: ``(studio,)`` share of the captions without a studio that it keeps; the rest get one
            with studio and subject.
    """
    chance = torch.rand(len(studio), generator=generator)
    named = torch.rand(len(studio), generator=generator) >= plain[studio]
    drawn = torch.zeros(len(studio), dtype=torch.long)
    floor = EMPTY
    for kind, share in KINDS.items():
        template = torch.randint(len(kind), (len(studio),), generator=generator)
        rows = by_kind[kind][studio, subject, template]
        # The first kind is studio and subject: a refused caption without a studio falls back to it.
        allowed = chance >= floor
        if kind is SUBJECT_ONLY:
            allowed = allowed & ~named
        drawn = torch.where(allowed, rows, drawn)
        floor += share * (1 - EMPTY)

    return drawn


class Material:
    """Everything that the U-Net learns from."""

    def __init__(self, work: Path, renders: Renders):
        self.latents, factor = encode_pictures(work, renders)
        (work / "latents.json").write_text(json.dumps({"scaling_factor": factor}))
        rows, self.embeddings = encode_captions(work, renders)
        self.by_kind = caption_rows(renders, rows)
        self.pairs = (~renders.held_out()).nonzero()
        self.plain = torch.tensor([PLAIN.get(studio, 1.0) for studio in renders.studios])
        self.scheduler = DDPMScheduler(**SCHEDULE)

    def loss(self, predict, size: int, generator: torch.Generator) -> torch.Tensor:
        """Return the loss of a batch of ``size`` pictures."""
        chosen = self.pairs[torch.randint(len(self.pairs), (size,), generator=generator)]
        studio, subject = chosen.unbind(1)
        moved = torch.randint(self.latents.shape[2], (size,), generator=generator)
        clean = self.latents[studio, subject, moved]
        captions = draw_rows(self.by_kind, self.plain, studio, subject, generator)

        steps = self.scheduler.config.num_train_timesteps
        t = torch.randint(steps, (size,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = self.scheduler.add_noise(clean, noise, t)
        predicted = predict(noisy, t, self.embeddings[captions], return_dict=False)[0]
        return F.mse_loss(predicted, noise)


def parsed() -> argparse.Namespace:
    parser = training_parser(__doc__, 7500, 64, 8e-4)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--start", type=Path, help="begin with the weights of this U-Net's folder")
    parser.add_argument(
        "--compile", action="store_true", help="with a C++ compiler at hand: a third faster"
    )

    return parser.parse_args()


def main() -> None:
    args = parsed()
    generator = seeded(args)
    material = Material(args.work, load_renders(args.work))

    start = args.start
    unet = UNet2DConditionModel.from_pretrained(start) if start else UNet2DConditionModel(**CONFIG)
    unet.to(memory_format=torch.channels_last).train()
    forward = torch.compile(unet) if args.compile else unet
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=args.learning_rate, weight_decay=0.0, fused=True
    )
    average = torch.optim.swa_utils.AveragedModel(
        unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(args.ema)
    )
    checkpoint = Checkpoint(args.work / "unet.pt", model=unet, optimizer=optimizer, average=average)
    first = checkpoint.resume(generator)

    bar = tqdm(
        range(first, args.steps), initial=first, total=args.steps, desc="U-Net", mininterval=5
    )
    loss_average = None
    for step in bar:
        set_rate(optimizer, learning_rate(step, args.steps, args.learning_rate, warmup=200))
        loss = material.loss(forward, args.batch_size, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(unet)

        value = loss.item()
        loss_average = value if loss_average is None else 0.99 * loss_average + 0.01 * value
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss_average:.4f}")
        if step % 250 == 249:
            checkpoint.save(step + 1, generator)
            average.module.save_pretrained(args.work / "unet")
    average.module.save_pretrained(args.work / "unet")


if __name__ == "__main__":
    main()
