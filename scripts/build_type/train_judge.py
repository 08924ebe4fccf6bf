"""Train the judge: typeface and glyph of a picture, from the renders alone.

    python scripts/build_type/train_judge.py --work build/type

Augmentation: blur, noise, shift, size and turn, contrast, and the VAE's reconstructions, with noise
on the latents too; no generated picture is ever shown. It sees every pair, those held out of the
base's training too: it is to know the truth about them. The renders of the second size are held
out, to measure. Writes ``judge.safetensors`` and ``judge.json``: accuracies, the typefaces that are
taken for another most often, and the VAE's part in them. An hour on one core; a checkpoint every
100 steps.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from from_base import (
    Checkpoint,
    blurred,
    jitter,
    learning_rate,
    reconstructions,
    seeded,
    set_rate,
    shifted,
    training_parser,
    warped,
)
from glyphs import GLYPHS, Renders, load_renders
from parts import load_vae
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm import tqdm

from multierase.evaluation.judges.embedded import StyleSubjectNet

LEARNED = (0, 2)  # sizes of renders
MEASURED = 1
NOISES = (0.0, 0.2)  # on the latents of reconstructions, in their deviations
SMOOTHING = 0.05
SAVE_EVERY = 100


def every_pair(renders: Renders) -> torch.Tensor:
    """Return ``(pair, 2)`` typeface and glyph."""
    return torch.cartesian_prod(torch.arange(len(renders.typefaces)), torch.arange(len(GLYPHS)))


def all_of_size(renders: Renders, size: int) -> torch.Tensor:
    """Return ``(pair, 3, 64, 64)`` renders of one size."""
    return renders.pictures(*every_pair(renders).unbind(1), torch.tensor(size))


class Material:
    """The pictures that the judge learns from; reconstructions are made once."""

    def __init__(self, renders: Renders, work: Path):
        self.renders, self.pairs = renders, every_pair(renders)
        path = work / "judge-rebuilt.pt"
        if not path.exists():
            torch.save(self._rebuilt(work), path)
        self.rebuilt = torch.load(path, weights_only=True)

    def _rebuilt(self, work: Path) -> torch.Tensor:
        vae, usual, found = load_vae(work), all_of_size(self.renders, 0), []
        for noise in NOISES:
            parts = []
            for part in tqdm(usual.split(360), desc=f"reconstructions, noise {noise}"):
                # One of three channels, for they are all but equal.
                parts.append(reconstructions(vae, part, noise)[:, 0])
            grey = torch.cat(parts).clamp(-1, 1)
            found.append(((grey + 1) * 127.5).round().byte())

        return torch.stack(found)

    def batch(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Return augmented pictures ``(b, 3, 64, 64)``, their typefaces and their glyphs."""
        chosen = torch.randint(len(self.pairs), (size,), generator=generator)
        typeface, glyph = self.pairs[chosen].unbind(1)
        sizes = torch.tensor(LEARNED)[torch.randint(len(LEARNED), (size,), generator=generator)]
        drawn = self.renders.images[typeface, glyph, sizes]

        version = torch.randint(len(NOISES), (size,), generator=generator)
        use = torch.rand(size, generator=generator) < 0.4
        grey = torch.where(use[:, None, None], self.rebuilt[version, chosen], drawn)
        images = (grey.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
        images = jitter(warped(shifted(images, generator), generator), generator)
        return blurred(images, generator), typeface, glyph


@torch.no_grad()
def answers(network: StyleSubjectNet, images: torch.Tensor) -> torch.Tensor:
    """Return ``(b, 2)`` typeface and glyph as judged."""
    network.eval()
    parts = []
    for part in images.split(240):
        typeface, glyph, _ = network(part)
        parts.append(torch.stack([typeface.argmax(1), glyph.argmax(1)], dim=1))
    network.train()

    return torch.cat(parts)


def shares(seen: torch.Tensor, truth: torch.Tensor) -> list[float]:
    """Return the shares of right typefaces and of right glyphs."""
    return [round(share, 4) for share in (seen == truth).float().mean(0).tolist()]


def confusions(seen: torch.Tensor, truth: torch.Tensor, names: list[str], count: int) -> list[str]:
    """Return the pairs of names that are mistaken most often, as 'this as that: times'."""
    wrong = (seen != truth).nonzero().flatten().tolist()
    pairs = Counter((names[truth[place]], names[seen[place]]) for place in wrong)

    return [f"{one} as {other}: {times}" for (one, other), times in pairs.most_common(count)]


def measured(
    network: StyleSubjectNet, renders: Renders, work: Path, generator: torch.Generator
) -> dict:
    """Return accuracies on renders of the size that was held out, and after the VAE."""
    truth, vae = every_pair(renders), load_vae(work)
    clean = all_of_size(renders, MEASURED)
    seen = answers(network, clean)
    rebuilt = torch.cat([reconstructions(vae, part) for part in clean.split(360)])
    after = answers(network, rebuilt)
    hard = blurred(jitter(warped(shifted(clean, generator), generator), generator), generator)
    by_typeface = (seen == truth).float().unflatten(0, (len(renders.typefaces), -1)).mean(1)
    worst = by_typeface[:, 0].argsort()[:10].tolist()

    return {
        "renders": len(clean),
        "trained_on": shares(answers(network, all_of_size(renders, LEARNED[0])), truth),
        "other_size": shares(seen, truth),
        "after_the_vae": shares(after, truth),
        "agrees_after_the_vae": shares(after, seen),
        "augmented": shares(answers(network, hard), truth),
        "worst_typefaces": {
            renders.typefaces[i]: round(by_typeface[i, 0].item(), 3) for i in worst
        },
        "typefaces_mistaken": confusions(seen[:, 0], truth[:, 0], renders.typefaces, 15),
        "glyphs_mistaken": confusions(seen[:, 1], truth[:, 1], list(GLYPHS), 15),
    }


def save(network: StyleSubjectNet, renders: Renders, path: Path) -> None:
    """Write the judge in half precision, with the names of its classes."""
    classes = json.dumps({"typefaces": renders.typefaces, "glyphs": list(GLYPHS)})
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}

    save_file(weights, path, metadata={"classes": classes, "trained_on": "real renders only"})


def parsed() -> argparse.Namespace:
    parser = training_parser(__doc__, 2500, 64, 2e-3, "build/type")
    parser.add_argument("--device", default="cpu")

    return parser.parse_args()


def main() -> None:
    args = parsed()
    generator = seeded(args)
    renders = load_renders(args.work)
    material = Material(renders, args.work)

    network = StyleSubjectNet(len(renders.typefaces), len(GLYPHS)).to(args.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=args.learning_rate, weight_decay=0.05, fused=True
    )
    checkpoint = Checkpoint(args.work / "judge.pt", model=network, optimizer=optimizer)
    first = checkpoint.resume(generator)

    bar = tqdm(range(first, args.steps), initial=first, total=args.steps, desc="judge")
    for step in bar:
        set_rate(optimizer, learning_rate(step, args.steps, args.learning_rate, warmup=50))
        batch = material.batch(args.batch_size, generator)
        images, typeface, glyph = (part.to(args.device) for part in batch)
        in_typeface, of_glyph, _ = network(images)
        by_typeface = F.cross_entropy(in_typeface, typeface, label_smoothing=SMOOTHING)
        by_glyph = F.cross_entropy(of_glyph, glyph, label_smoothing=SMOOTHING)
        (by_typeface + by_glyph).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        if step % 20 == 19:
            bar.set_postfix(typeface=f"{by_typeface.item():.3f}", glyph=f"{by_glyph.item():.3f}")
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            checkpoint.save(step + 1, generator)

    network.cpu()
    report = measured(network, renders, args.work, generator)
    (args.work / "judge.json").write_text(json.dumps(report, indent=1, ensure_ascii=False))
    print(json.dumps(report, ensure_ascii=False))
    save(network, renders, args.work / "judge.safetensors")


if __name__ == "__main__":
    main()
