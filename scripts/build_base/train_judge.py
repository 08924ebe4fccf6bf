"""Train the judge: studio and subject of a picture, from the real renders alone.

    python scripts/build_base/train_judge.py --work build/

Augmentation: blur, noise, shift, size and turn, colour jitter, and the VAE's reconstructions; no
generated picture is ever shown. It sees every drawing of the base's subjects, those held out of the
base's training too: it is to know the truth about them. Held out: a quarter of the extra subjects,
by all nine studios; and the base's subjects rendered smaller. Writes ``build/judge.safetensors``
and ``build/judge.json`` (accuracies). Twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from renders import (
    Checkpoint,
    Renders,
    blurred,
    learning_rate,
    load_renders,
    seeded,
    set_rate,
    shifted,
    training_parser,
)
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm import tqdm

from multierase.evaluation.judges.embedded import StyleSubjectNet

# cross_entropy's ignore_index: the extra subjects have a studio, and no subject of the base.
UNKNOWN = -100
NOISES = (0.0, 0.15, 0.3)  # on the latents of reconstructions, in their deviations
SMOOTHING = 0.05


@torch.no_grad()
def reconstructions(vae: AutoencoderKL, images: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
    """Encode and decode pictures.

    Args:
        noise: on the latents, in their deviations.
    """
    latents = torch.cat([vae.encode(batch).latent_dist.mode() for batch in images.split(64)])
    generator = torch.Generator().manual_seed(0)
    latents = latents + noise * latents.std() * torch.randn(latents.shape, generator=generator)

    return torch.cat([vae.decode(batch).sample for batch in latents.split(64)])


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, contrast and each channel a little; ``(b, 3, 64, 64)`` in [-1, 1]."""
    gain = 1 + 0.15 * (2 * torch.rand(len(images), 3, 1, 1, generator=generator) - 1)
    offset = 0.1 * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)

    return ((images - 1) * gain + 1 + offset).clamp(-1, 1)


def warped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Scale each of ``(b, 3, 64, 64)`` to 0.85 to 1.05, and turn it by up to 4 degrees.

    Outside is white.
    """
    size = 1 / (0.85 + 0.2 * torch.rand(len(images), generator=generator))
    angle = 0.07 * (2 * torch.rand(len(images), generator=generator) - 1)
    cos, sin, zero = size * angle.cos(), size * angle.sin(), torch.zeros(len(images))
    rows = [torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)

    return F.grid_sample(images - 1, grid, align_corners=False) + 1


def split(renders: Renders) -> dict[str, torch.Tensor]:
    """Return boolean ``(studio, subject)`` over base and extra subjects.

    ``train``: what is trained on. ``subjects``: what is held out.
    """
    base = torch.zeros(renders.images.shape[:2], dtype=torch.bool)
    extra = torch.zeros(renders.other_images.shape[:2], dtype=torch.bool)
    order = torch.randperm(extra.shape[1], generator=torch.Generator().manual_seed(2402))
    extra[:, order[: extra.shape[1] // 4]] = True
    held_out = torch.cat([base, extra], 1)

    return {"train": ~held_out, "subjects": held_out}


class Material:
    """The pictures that the judge learns from, and their labels."""

    def __init__(self, renders: Renders, vae: AutoencoderKL):
        self.renders, self.own = renders, len(renders.subjects)
        self.every = torch.cat([renders.images, renders.other_images], dim=1)
        self.parts = split(renders)

        # The VAE knows the base's own subjects only; of the others it makes mud, which teaches
        # nothing.
        flat, grid = renders.images.flatten(0, 1), renders.images.shape[:2]
        versions = [reconstructions(vae, flat, noise).unflatten(0, grid) for noise in NOISES]
        self.versions = torch.stack(versions)

        self.pairs = self.parts["train"].nonzero()
        # The base's subjects are what it will judge.
        self.weight = torch.where(self.pairs[:, 1] < self.own, 2.0, 1.0)

    def batch(
        self, size: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return augmented pictures ``(b, 3, 64, 64)``, their studios and their subjects."""
        chosen = torch.multinomial(self.weight, size, True, generator=generator)
        studio, subject = self.pairs[chosen].unbind(1)
        images = self.every[studio, subject]

        use = (subject < self.own) & (torch.rand(len(images), generator=generator) < 0.5)
        version = torch.randint(len(self.versions), studio.shape, generator=generator)
        rebuilt = self.versions[version, studio, subject.clamp(max=self.own - 1)]
        images = torch.where(use[:, None, None, None], rebuilt, images)
        images = jitter(warped(shifted(images, generator), generator), generator)
        return blurred(images, generator), studio, self.known(subject)

    def known(self, subject: torch.Tensor) -> torch.Tensor:
        """Return the subjects' labels: those that the base does not draw have none."""
        return torch.where(subject < self.own, subject, UNKNOWN)


@torch.no_grad()
def accuracy(
    network: StyleSubjectNet, images: torch.Tensor, labels: torch.Tensor
) -> list[float | None]:
    """Return the share that is right, of studios and of subjects.

    Args:
        labels: ``(b, 2)`` studio and subject, -100 where there is none.
    """
    network.eval()
    heads = network(images)
    network.train()

    shares = []
    for column in range(2):
        known = labels[:, column] != UNKNOWN
        right = (heads[column].argmax(1) == labels[:, column])[known].float()
        shares.append(round(right.mean().item(), 4) if len(right) else None)
    return shares


def measured(
    network: StyleSubjectNet, vae: AutoencoderKL, material: Material, generator: torch.Generator
) -> dict[str, dict]:
    """Return the accuracies on what was trained on, and on what was held out."""
    seen = material.parts["train"][:, : material.own].nonzero()
    smaller = material.renders.smaller[seen[:, 0], seen[:, 1]]
    rebuilt_smaller = reconstructions(vae, smaller)
    report = {
        "smaller": {
            "renders": len(seen),
            "clean": accuracy(network, smaller, seen),
            "reconstructed": accuracy(network, rebuilt_smaller, seen),
        }
    }

    for name, part in material.parts.items():
        where = part.nonzero()
        labels = torch.stack([where[:, 0], material.known(where[:, 1])], dim=1)
        clean = material.every[where[:, 0], where[:, 1]]
        report[name] = {"renders": len(where), "clean": accuracy(network, clean, labels)}
        hard = blurred(jitter(shifted(clean, generator), generator), generator)
        report[name]["augmented"] = accuracy(network, hard, labels)
    return report


def save(network: StyleSubjectNet, renders: Renders, path: Path) -> None:
    """Write the judge in half precision, with the names of its classes."""
    classes = json.dumps({"studios": renders.studios, "subjects": renders.subjects})
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}

    save_file(weights, path, metadata={"classes": classes, "trained_on": "real renders only"})


def parsed() -> argparse.Namespace:
    parser = training_parser(__doc__, 2700, 64, 2e-3)
    parser.add_argument(
        "--vae", default="vae-decoder", help="whose reconstructions to show: a folder in --work"
    )

    return parser.parse_args()


def main() -> None:
    args = parsed()
    generator = seeded(args)
    renders = load_renders(args.work)
    vae = AutoencoderKL.from_pretrained(args.work / args.vae)
    material = Material(renders, vae)

    network = StyleSubjectNet(len(renders.studios), len(renders.subjects))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=args.learning_rate, weight_decay=0.05, fused=True
    )
    checkpoint = Checkpoint(args.work / "judge.pt", model=network, optimizer=optimizer)
    first = checkpoint.resume(generator)

    bar = tqdm(
        range(first, args.steps), initial=first, total=args.steps, desc="judge", mininterval=5
    )
    for step in bar:
        set_rate(optimizer, learning_rate(step, args.steps, args.learning_rate, warmup=50))
        images, studio, subject = material.batch(args.batch_size, generator)
        in_studio, of_subject, _ = network(images)
        by_studio = F.cross_entropy(in_studio, studio, label_smoothing=SMOOTHING)
        by_subject = F.cross_entropy(of_subject, subject, label_smoothing=SMOOTHING)
        (by_studio + by_subject).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        if step % 50 == 49:
            bar.set_postfix(studio=f"{by_studio.item():.3f}", subject=f"{by_subject.item():.3f}")
        if step % 200 == 199:
            checkpoint.save(step + 1, generator)

    report = measured(network, vae, material, generator)
    (args.work / "judge.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))
    save(network, renders, args.work / "judge.safetensors")


if __name__ == "__main__":
    main()
