"""Train the base's VAE on the renders: 16 channels, as Stable Diffusion 3 has.

    python scripts/build_type/train_vae.py --work build/type

A picture of 64x64 pixels becomes 16x16 latents (``--factor 4``): with patches of 2 the transformer
sees 64 places. ``--factor 8`` gives 8x8 latents and 16 places, to compare. Half of the latents get
some noise, as the transformer's are never quite right. Writes ``vae/`` with its shift and scaling
factor, and a checkpoint every 100 steps, from which it goes on. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import json

import torch
from diffusers import AutoencoderKL
from from_base import (
    Checkpoint,
    learning_rate,
    reconstruction_loss,
    seeded,
    set_rate,
    shifted,
    training_parser,
)
from glyphs import GLYPHS, SIZES, Renders, load_renders
from tqdm import tqdm

WIDTHS = {4: (16, 32, 64), 8: (16, 32, 64, 96)}
CHANNELS = 16
# Per latent value: near latents look alike, and the posterior stays some percent wide.
KL_WEIGHT = 1e-3
NOISE = 0.2  # at most, in the latents' deviations
SAVE_EVERY = 100


def build(factor: int) -> AutoencoderKL:
    """Return an untrained VAE with Stable Diffusion 3's layout."""
    widths = WIDTHS[factor]

    return AutoencoderKL(
        sample_size=64,
        latent_channels=CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def loss_of(vae: AutoencoderKL, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a step's loss."""
    posterior = vae.encode(batch.to(vae.device)).latent_dist
    drawn = torch.randn(posterior.mean.shape, generator=generator).to(vae.device)
    latents = posterior.mean + posterior.std * drawn

    level = NOISE * (2 * torch.rand(len(batch), 1, 1, 1, generator=generator) - 1).clamp(min=0)
    noise = level * torch.randn(latents.shape, generator=generator)
    latents = latents + noise.to(vae.device) * latents.detach().std()

    loss = reconstruction_loss(vae.decode(latents).sample, batch.to(vae.device))
    return loss + KL_WEIGHT * posterior.kl().mean() / latents[0].numel()


def drawn_pictures(renders: Renders, size: int, generator: torch.Generator) -> torch.Tensor:
    """Draw pictures ``(b, 3, 64, 64)`` of any glyph, size and place."""
    places = []
    for count in (len(renders.typefaces), len(GLYPHS), len(SIZES)):
        places.append(torch.randint(count, (size,), generator=generator))

    return shifted(renders.pictures(*places), generator)


@torch.no_grad()
def calibrate(vae: AutoencoderKL, pictures: torch.Tensor) -> dict[str, float]:
    """Set the shift and the scaling factor by which latents have mean 0 and deviation 1."""
    parts = [vae.encode(part.to(vae.device)).latent_dist for part in pictures.split(64)]
    modes = torch.cat([part.mean for part in parts])
    width = torch.cat([part.std for part in parts]).mean() / modes.std()
    factors = {
        "shift_factor": round(modes.mean().item(), 5),
        "scaling_factor": round(1 / modes.std().item(), 5),
    }
    vae.register_to_config(**factors)

    decoded = torch.cat([vae.decode(mode).sample for mode in modes.split(64)])
    error = (decoded.cpu() - pictures).square().mean().sqrt().item() / 2
    return {**factors, "posterior_width": round(width.item(), 4), "rms_error": round(error, 4)}


def parsed() -> argparse.Namespace:
    parser = training_parser(__doc__, 1600, 16, 2e-3, "build/type")
    parser.add_argument("--factor", type=int, choices=list(WIDTHS), default=4)
    parser.add_argument("--name", default="vae", help="the folder in --work")
    parser.add_argument("--device", default="cpu")

    return parser.parse_args()


def main() -> None:
    args = parsed()
    generator = seeded(args)
    renders = load_renders(args.work)

    vae, folder = build(args.factor).to(args.device), args.work / args.name
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    checkpoint = Checkpoint(folder.with_suffix(".pt"), model=vae, optimizer=optimizer)
    first = checkpoint.resume(generator)

    bar = tqdm(range(first, args.steps), initial=first, total=args.steps, desc="VAE", mininterval=9)
    average = None
    for step in bar:
        set_rate(optimizer, learning_rate(step, args.steps, args.learning_rate, warmup=100))
        loss = loss_of(vae, drawn_pictures(renders, args.batch_size, generator), generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        average = loss.item() if average is None else 0.99 * average + 0.01 * loss.item()
        if step % 20 == 19:
            bar.set_postfix(loss=f"{average:.4f}")
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            checkpoint.save(step + 1, generator)

    report = calibrate(vae.eval(), drawn_pictures(renders, 512, generator))
    vae.save_pretrained(folder)
    folder.with_suffix(".json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
