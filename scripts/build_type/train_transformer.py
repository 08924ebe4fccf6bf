"""Train the base's transformer by rectified flow, on the VAE's latents and the text towers' rows.

    python scripts/build_type/train_transformer.py --work build/type
    python scripts/build_type/train_transformer.py --work build/type --steps 18500

``SD3Transformer2DModel`` with patches of 2: at ``sigma`` it sees ``(1 - sigma) x_0 + sigma eps``
and predicts ``eps - x_0``. ``sigma`` is drawn from a logit-normal, then shifted towards noise as
the sampler's steps are: glyph and typeface are decided there, and text alone tells them. A tenth of
the captions is empty, for guidance; an exponential moving average of the weights is kept. It stops
after ``--minutes`` and goes on from its checkpoint when started again; a larger ``--steps`` draws
the fall of the learning rate out. The training of the package's base went on by the second line,
after 4,450 steps whose rate fell towards 24,000 and then 20,000. Writes ``transformer/`` (the
average), ``transformer.csv`` (steps, losses, seconds) and sheets of samples. About 0.9 GFLOP for
each latent: 500 thousand latents take two hours of one free core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from captions import draw, every_caption
from counted import count_last_row, draw_count
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.models.attention_processor import JointAttnProcessor2_0
from from_base import Checkpoint, learning_rate, seeded, set_rate, shift, training_parser
from glyphs import GLYPHS, SIZES, Renders, load_renders
from parts import SHIFT, encode_text, load_towers, load_vae, pipeline_of
from torch.nn import functional as F
from tqdm import tqdm
from train_text import Disturbance, tokens_of
from transformers import CLIPTokenizer

from multierase.pictures import contact_sheet, save_picture

JOINT = 256  # the sum of the towers' widths, and of their pooled vectors
CONFIG = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 5,
    "joint_attention_dim": JOINT,
    "caption_projection_dim": 160,
    "pooled_projection_dim": JOINT,
    "pos_embed_max_size": 16,
    "qk_norm": "rms_norm",
}
SHIFTS = ((0, 0), (-2, 2), (2, -2))  # pixels down and across
EMPTY = 0.1  # share of empty captions
SHEET = (("A", "G", "R", "S", "7"), 8)  # glyphs and typefaces of a sheet of samples


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, renders: Renders, device: str) -> torch.Tensor:
    """Encode every view of the pictures, float16 ``(typeface, glyph, view, c, h, w)``."""
    vae.to(device)
    count = len(renders.typefaces)
    grid = torch.cartesian_prod(torch.arange(len(GLYPHS)), torch.arange(len(SIZES)))
    found = []
    for typeface in tqdm(range(count), desc="latents", mininterval=9):
        own = renders.pictures(torch.tensor(typeface), *grid.unbind(1))
        views = torch.stack([shift(own, *moved) for moved in SHIFTS], dim=1).flatten(0, 1)
        modes = vae.encode(views.to(device)).latent_dist.mode()
        found.append(modes.unflatten(0, (len(GLYPHS), -1)).cpu())

    scaled = (torch.stack(found) - vae.config.shift_factor) * vae.config.scaling_factor
    return scaled.half()


def cached_latents(work: Path, renders: Renders, device: str) -> torch.Tensor:
    """Encode the pictures once: a later run reads them."""
    path = work / "latents.pt"
    if not path.exists():
        torch.save(encode_pictures(load_vae(work), renders, device), path)

    return torch.load(path, weights_only=True, mmap=True)


def shifted_sigma(sigma: torch.Tensor) -> torch.Tensor:
    """Move noise levels towards 1, as the sampler does (Esser et al. 2024, equation 23)."""
    return SHIFT * sigma / (1 + (SHIFT - 1) * sigma)


def averaging(decay: float):
    """Return the moving average's update; its first steps forget sooner, for they know less."""

    @torch.no_grad()
    def update(averaged, current, count: torch.Tensor) -> None:
        steps = float(count)
        share = 1 - min(decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(averaged, current, share)

    return update


class Material:
    """Everything that the transformer learns from."""

    def __init__(self, work: Path, device: str):
        renders = load_renders(work)
        self.device, self.typefaces = device, renders.typefaces
        self.latents = cached_latents(work, renders, device)
        self.captions = every_caption(renders.typefaces)
        tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        self.tokens = tokens_of(tokenizer, self.captions.texts)
        self.disturb = Disturbance(tokenizer)
        self.towers = [tower.to(device) for tower in load_towers(work)]
        self.pairs = (~renders.held_out()).nonzero()

    def loss(self, predict, size: int, generator: torch.Generator) -> torch.Tensor:
        """Return the loss of a batch of ``size`` pictures."""
        chosen = torch.randint(len(self.pairs), (size,), generator=generator)
        typeface, glyph = self.pairs[chosen].unbind(1)
        view = torch.randint(self.latents.shape[2], (size,), generator=generator)
        clean = self.latents[typeface, glyph, view].float()
        caption = draw(self.captions, typeface, glyph, EMPTY, generator)
        # Its first caption is the empty one, which guidance needs as it is.
        tokens = self.tokens[caption]
        read = self.disturb(tokens, generator)
        read = torch.where(caption[:, None] == 0, tokens, read).to(self.device)
        noise = torch.randn(clean.shape, generator=generator)
        sigma = shifted_sigma(torch.randn(size, generator=generator).sigmoid())

        each = sigma[:, None, None, None]
        x_t = ((1 - each) * clean + each * noise).to(self.device)
        velocity = (noise - clean).to(self.device)
        rows, pooled = encode_text(self.towers, read, JOINT)
        predicted = predict(
            hidden_states=x_t,
            timestep=1000 * sigma.to(self.device),
            encoder_hidden_states=rows,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return F.mse_loss(predicted, velocity)


class Sampler:
    """Draws a sheet with the average of the weights, to look at."""

    def __init__(self, work: Path, typefaces: list[str]):
        glyphs, count = SHEET
        self.work, self.glyphs = work, glyphs
        self.typefaces = typefaces[:: max(1, len(typefaces) // count)][:count]

    @torch.no_grad()
    def __call__(self, transformer: SD3Transformer2DModel, step: int) -> None:
        plain = SD3Transformer2DModel(**transformer.config)
        plain.load_state_dict(transformer.state_dict())
        plain.set_attn_processor(JointAttnProcessor2_0())
        pipeline = pipeline_of(self.work, plain.eval())
        pipeline.set_progress_bar_config(disable=True)

        prompts = []
        for typeface in self.typefaces:
            prompts += [f"{glyph} in {typeface}" for glyph in self.glyphs]
        drawn = pipeline(
            prompts,
            num_inference_steps=20,
            guidance_scale=3.0,
            max_sequence_length=1,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
        ).images
        page = contact_sheet(
            drawn, len(self.glyphs), row_labels=self.typefaces, column_labels=self.glyphs
        )
        save_picture(page, self.work / f"samples-{step:06d}.png")


def parsed() -> argparse.Namespace:
    parser = training_parser(__doc__, 12000, 64, 1e-3, "build/type")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--save-minutes", type=float, default=4, help="between two checkpoints")
    parser.add_argument("--sheet-steps", type=int, default=500, help="between two sheets")
    parser.add_argument(
        "--compile", action="store_true", help="with a C++ compiler at hand: somewhat faster"
    )
    parser.add_argument("--device", default="cpu")

    return parser.parse_args()


class Training:
    """The weights in training, and everything that goes into a checkpoint."""

    def __init__(self, args: argparse.Namespace, side: int):
        self.args, self.generator = args, seeded(args)
        self.transformer = SD3Transformer2DModel(**CONFIG, sample_size=side).to(args.device)
        self.counted = count_last_row(self.transformer.train())
        self.optimizer = torch.optim.AdamW(
            self.transformer.parameters(),
            lr=args.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        self.average = torch.optim.swa_utils.AveragedModel(
            self.transformer, multi_avg_fn=averaging(args.ema)
        )
        self.checkpoint = Checkpoint(
            args.work / "transformer.pt",
            model=self.transformer,
            optimizer=self.optimizer,
            average=self.average,
        )
        self.first = self.checkpoint.resume(self.generator)
        self.forward = torch.compile(self.transformer) if args.compile else self.transformer

    def step(self, material: Material, number: int) -> float:
        """Take one step; return its loss."""
        rate = learning_rate(number, self.args.steps, self.args.learning_rate, warmup=300)
        set_rate(self.optimizer, rate)
        self.counted.bias = draw_count(self.generator)
        loss = material.loss(self.forward, self.args.batch_size, self.generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.transformer.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.transformer)

        return loss.item()

    def save(self, steps: int) -> None:
        """Write the checkpoint, and the average as an ordinary folder."""
        self.checkpoint.save(steps, self.generator)
        self.average.module.save_pretrained(self.args.work / "transformer")


def main() -> None:
    args = parsed()
    torch.set_num_threads(args.threads)
    material = Material(args.work, args.device)
    training = Training(args, material.latents.shape[-1])
    sampler = Sampler(args.work, material.typefaces)

    started = saved = time.monotonic()
    bar = tqdm(
        range(training.first, args.steps),
        initial=training.first,
        total=args.steps,
        desc="transformer",
        mininterval=30,
    )
    average, done = None, training.first
    for number in bar:
        loss, done = training.step(material, number), number + 1
        average = loss if average is None else 0.99 * average + 0.01 * loss
        now = time.monotonic()
        if done % 50 == 0:
            bar.set_postfix(loss=f"{average:.4f}")
            with (args.work / "transformer.csv").open("a") as file:
                file.write(f"{done},{average:.5f},{now - started:.0f}\n")
        if now - saved > 60 * args.save_minutes:
            training.save(done)
            saved = now
        if done % args.sheet_steps == 0:
            sampler(training.average.module, done)
        if now - started > 60 * args.minutes:
            break
    training.save(done)
    sampler(training.average.module, done)
    print(f"{done} steps, {done * args.batch_size} latents, loss {average}")


if __name__ == "__main__":
    main()
