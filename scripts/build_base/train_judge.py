"""Train the judge: studio and subject of a picture, from the real renders alone.

    python scripts/build_base/train_judge.py --work build/

Augmentation: blur, noise, shift, size and turn, colour jitter, and the VAE's reconstructions; no generated
picture is ever shown. It sees every drawing of the base's subjects, those held out of the base's training too: it is
to know the truth about them. Held out: a quarter of the extra subjects, in all nine hands; and the base's subjects
rendered smaller. Writes ``build/judge.safetensors`` and ``build/judge.json`` (accuracies). Twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from renders import Checkpoint, Renders, blurred, learning_rate, load_renders, shifted
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm import tqdm

from multierase.evaluation.judges import StudioSubjectNet

UNKNOWN = -100  # cross_entropy's ignore_index: the extra subjects have a studio, and no subject of the base


@torch.no_grad()
def reconstructions(vae: AutoencoderKL, images: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
    """``noise``: on the latents, in their deviations."""
    latents = torch.cat([vae.encode(batch).latent_dist.mode() for batch in images.split(64)])
    generator = torch.Generator().manual_seed(0)
    latents = latents + noise * latents.std() * torch.randn(latents.shape, generator=generator)
    return torch.cat([vae.decode(batch).sample for batch in latents.split(64)])


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Brightness, contrast and a small change of each channel, on ``(b, 3, 64, 64)`` in [-1, 1]."""
    gain = 1 + 0.15 * (2 * torch.rand(len(images), 3, 1, 1, generator=generator) - 1)
    offset = 0.1 * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return ((images - 1) * gain + 1 + offset).clamp(-1, 1)


def warped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each of ``(b, 3, 64, 64)`` at 0.85 to 1.05 of its size, turned by up to 4 degrees; outside is white."""
    size = 1 / (0.85 + 0.2 * torch.rand(len(images), generator=generator))
    angle = 0.07 * (2 * torch.rand(len(images), generator=generator) - 1)
    cos, sin, zero = size * angle.cos(), size * angle.sin(), torch.zeros(len(images))
    matrices = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images - 1, grid, align_corners=False) + 1


def split(renders: Renders) -> dict[str, torch.Tensor]:
    """Boolean ``(studio, subject)`` over base and extra subjects: ``train`` and ``subjects``, held out."""
    base, extra = (torch.zeros(part.shape[:2], dtype=torch.bool) for part in (renders.images, renders.other_images))
    quarter = torch.randperm(extra.shape[1], generator=torch.Generator().manual_seed(2402))[: extra.shape[1] // 4]
    extra[:, quarter] = True
    held_out = torch.cat([base, extra], 1)
    return {"train": ~held_out, "subjects": held_out}


@torch.no_grad()
def accuracy(network: StudioSubjectNet, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Share right of ``images``, per head; ``labels``: ``(b, 2)`` studio and subject, -100 where it has none."""
    network.eval()
    heads = network(images)
    network.train()
    known = [labels[:, i] != UNKNOWN for i in range(2)]
    right = [(heads[i].argmax(1) == labels[:, i])[known[i]].float() for i in range(2)]
    return [round(r.mean().item(), 4) if len(r) else None for r in right]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build"))
    parser.add_argument("--vae", default="vae-decoder", help="whose reconstructions to show: a folder in --work")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    renders = load_renders(args.work)
    every = torch.cat([renders.images, renders.other_images], dim=1)
    vae = AutoencoderKL.from_pretrained(args.work / args.vae)
    # The VAE knows the base's own subjects only; of the others it makes mud, which teaches nothing.
    flat, grid = renders.images.flatten(0, 1), renders.images.shape[:2]
    versions = torch.stack([reconstructions(vae, flat, noise).unflatten(0, grid) for noise in (0.0, 0.15, 0.3)])
    parts, own = split(renders), len(renders.subjects)
    network = StudioSubjectNet(len(renders.studios), own)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=0.05, fused=True)
    checkpoint = Checkpoint(args.work / "judge.pt", model=network, optimizer=optimizer)
    first = checkpoint.resume(generator)
    pairs = parts["train"].nonzero()
    weight = torch.where(pairs[:, 1] < own, 2.0, 1.0)  # the base's subjects are what it will judge

    bar = tqdm(range(first, args.steps), initial=first, total=args.steps, desc="judge", mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.learning_rate, warmup=50)
        studio, subject = pairs[torch.multinomial(weight, args.batch_size, True, generator=generator)].unbind(1)
        images = every[studio, subject]
        use = (subject < own) & (torch.rand(len(images), generator=generator) < 0.5)
        version = torch.randint(len(versions), studio.shape, generator=generator)
        images = torch.where(use[:, None, None, None], versions[version, studio, subject.clamp(max=own - 1)], images)
        images = blurred(jitter(warped(shifted(images, generator), generator), generator), generator)
        in_studio, of_subject, _ = network(images)
        known = torch.where(subject < own, subject, UNKNOWN)
        losses = [
            F.cross_entropy(in_studio, studio, label_smoothing=0.05),
            F.cross_entropy(of_subject, known, label_smoothing=0.05),
        ]
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 49:
            bar.set_postfix(studio=f"{losses[0].item():.3f}", subject=f"{losses[1].item():.3f}")
        if step % 200 == 199:
            checkpoint.save(step + 1, generator)

    seen = parts["train"][:, :own].nonzero()
    smaller = renders.smaller[seen[:, 0], seen[:, 1]]
    rebuilt_smaller = reconstructions(vae, smaller)
    report = {
        "smaller": {
            "renders": len(seen),
            "clean": accuracy(network, smaller, seen),
            "reconstructed": accuracy(network, rebuilt_smaller, seen),
        }
    }
    for name, part in parts.items():
        where = part.nonzero()
        labels = torch.stack([where[:, 0], torch.where(where[:, 1] < own, where[:, 1], UNKNOWN)], dim=1)
        clean = every[where[:, 0], where[:, 1]]
        report[name] = {"renders": len(where), "clean": accuracy(network, clean, labels)}
        hard = blurred(jitter(shifted(clean, generator), generator), generator)
        report[name]["augmented"] = accuracy(network, hard, labels)
    (args.work / "judge.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))
    classes = json.dumps({"studios": renders.studios, "subjects": renders.subjects})
    save_file(
        {name: value.half().contiguous() for name, value in network.state_dict().items()},
        args.work / "judge.safetensors",
        metadata={"classes": classes, "trained_on": "real renders only"},
    )


if __name__ == "__main__":
    main()
