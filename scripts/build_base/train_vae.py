"""Train the base's f8 VAE on the renders: first the whole of it, then its decoder alone.

    python scripts/build_base/train_vae.py --work build/ --phase whole --threads 2
    python scripts/build_base/train_vae.py --work build/ --phase decoder

The encoder is final after the first phase (ten minutes on two cores), so the U-Net may train beside
the second. Both phases write a checkpoint every 250 steps and go on from it when started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from renders import (
    Checkpoint,
    learning_rate,
    load_renders,
    seeded,
    set_rate,
    shifted,
    training_parser,
)
from torch.nn import functional as F
from tqdm import tqdm

CONFIG = {
    "sample_size": 64,
    "latent_channels": 8,
    "block_out_channels": (16, 32, 64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 8,
}
# Per latent value; it keeps the posterior some percent wide, so that near latents look alike.
KL_WEIGHT = 3e-4
STEPS = {"whole": 2600, "decoder": 4900}


def edges(images: torch.Tensor) -> torch.Tensor:
    """Return differences between neighbouring pixels: they tell outlines from flat colour."""
    across = images[..., :, 1:] - images[..., :, :-1]
    down = images[..., 1:, :] - images[..., :-1, :]

    return torch.cat([across.flatten(1), down.flatten(1)], dim=1)


def reconstruction_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the loss of pixels and of edges."""
    pixels = F.l1_loss(decoded, images) + F.l1_loss(edges(decoded), edges(images))

    return pixels + F.mse_loss(decoded, images)


def untrained(work: Path, whole: bool) -> AutoencoderKL:
    """Return a new VAE; in the decoder's phase that of the first, with its encoder frozen."""
    vae = AutoencoderKL(**CONFIG)
    if not whole:
        vae.load_state_dict(AutoencoderKL.from_pretrained(work / "vae-whole").state_dict())
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    return vae


def loss_of(
    vae: AutoencoderKL,
    batch: torch.Tensor,
    generator: torch.Generator,
    *,
    whole: bool,
    noise: float,
) -> torch.Tensor:
    """Return a step's loss.

    Args:
        noise: of the decoder's phase, on the latents, in their deviations.
    """
    with torch.set_grad_enabled(whole):
        posterior = vae.encode(batch).latent_dist
        latents = posterior.sample(generator)
    if not whole:
        # The U-Net's latents are never quite right: a decoder that has seen noise draws clean lines
        # from them.
        level = noise * torch.rand(len(batch), 1, 1, 1, generator=generator) * latents.std()
        latents = latents + level * torch.randn(latents.shape, generator=generator)

    loss = reconstruction_loss(vae.decode(latents).sample, batch)
    if whole:
        loss = loss + KL_WEIGHT * posterior.kl().mean() / latents[0].numel()
    return loss


def parsed() -> argparse.Namespace:
    parser = training_parser(__doc__, None, 8, 1.5e-3)
    parser.add_argument("--phase", choices=list(STEPS), required=True)
    parser.add_argument(
        "--noise", type=float, default=0.15, help="decoder phase: latent noise, in deviations"
    )

    return parser.parse_args()


def main() -> None:
    args = parsed()
    generator = seeded(args)
    whole = args.phase == "whole"
    steps = args.steps or STEPS[args.phase]
    images = load_renders(args.work).images.flatten(0, 1)

    vae = untrained(args.work, whole)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    folder = args.work / f"vae-{args.phase}"
    checkpoint = Checkpoint(folder.with_suffix(".pt"), model=vae, optimizer=optimizer)
    first = checkpoint.resume(generator)

    described = f"VAE, {args.phase}"
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=described, mininterval=5)
    average = None
    for step in bar:
        set_rate(optimizer, learning_rate(step, steps, args.learning_rate, warmup=100))
        chosen = torch.randint(len(images), (args.batch_size,), generator=generator)
        batch = shifted(images[chosen], generator)
        loss = loss_of(vae, batch, generator, whole=whole, noise=args.noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        average = loss.item() if average is None else 0.99 * average + 0.01 * loss.item()
        if step % 50 == 49:
            bar.set_postfix(loss=f"{average:.4f}")
        if step % 250 == 249:
            checkpoint.save(step + 1, generator)
            vae.save_pretrained(folder)
    vae.save_pretrained(folder)


if __name__ == "__main__":
    main()
