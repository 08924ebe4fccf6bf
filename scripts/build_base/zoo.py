"""Train one more small base, to choose defaults on: other seeds, captions, subjects, architectures.

    python scripts/build_base/data.py --work build/
    python scripts/build_base/zoo.py sentences --work build/ --out build/zoo/sentences

Each variant differs from the embedded base in what its ``about`` says. All of them keep the
embedded base's VAE, so that only language and denoiser are trained: a text tower by classification
alone, then a U-Net. A checkpoint every 250 steps, from which the same command goes on. The folder
is an ordinary diffusers pipeline; ``names.json`` in it says which words stand for which studios and
subjects, and ``sentences.json`` which sentences it was taught. ``zoo.json`` has the digests:
``sentences``, ``weak``, ``few`` and ``velocity`` were trained on a CPU, the others with ``--device
cuda``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from renders import SHIFTS, Checkpoint, Renders, learning_rate, load_renders, shift
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from train_clip import learn_tokenizer
from train_unet import SCHEDULE
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from zoo_variants import VARIANTS, Variant

from multierase import load_base
from multierase.emoji import with_article
from multierase.files import digest_file

EMPTY = 0.1  # share of empty prompts
SHARES = {"both": 0.75, "subject": 0.15, "studio": 0.10}  # of the others


@dataclass(frozen=True)
class World:
    """The words of a variant, and where each caption's embedding is.

    ``rows``: by kind of caption ``(studio, subject, form)`` rows of the list of captions.
    """

    variant: Variant
    studios: tuple[str, ...]
    subjects: tuple[str, ...]
    captions: list[str]
    rows: dict[str, torch.Tensor]


def world_of(variant: Variant, renders: Renders) -> World:
    studios = variant.names or tuple(renders.studios)
    subjects = tuple(renders.subjects[variant.subjects])
    places: dict[str, int] = {"": 0}
    rows = {}
    for kind, forms in variant.forms.items():
        table = torch.zeros(len(studios), len(subjects), len(forms), dtype=torch.long)
        for i, studio in enumerate(studios):
            for j, subject in enumerate(subjects):
                for k, form in enumerate(forms):
                    words = {
                        "studio": studio,
                        "subject": subject,
                        "a_subject": with_article(subject),
                    }
                    table[i, j, k] = places.setdefault(form.format(**words), len(places))
        rows[kind] = table

    return World(variant, studios, subjects, list(places), rows)


def tokenizer_of(world: World, folder: Path) -> CLIPTokenizer:
    """Learn the tokenizer once: ties of merges fall otherwise the next time."""
    if (folder / "tokenizer_config.json").exists():
        return CLIPTokenizer.from_pretrained(folder)

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = learn_tokenizer(world.captions, folder, world.variant.length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_tower(variant: Variant, tokenizer: CLIPTokenizer) -> nn.Module:
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": variant.width,
        "intermediate_size": 3 * variant.width,
        "num_hidden_layers": variant.tower_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": variant.length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if variant.causal:
        return CLIPTextModel(CLIPTextConfig(**shape))

    return BertModel(BertConfig(**shape), add_pooling_layer=False)


def draw(
    world: World, studio: torch.Tensor, subject: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw a caption for each picture; return its row, and whether it names studio and subject."""
    count = len(studio)
    chance = torch.rand(count, generator=generator)
    rows = torch.zeros(count, dtype=torch.long)
    names_studio, names_subject = torch.zeros(count, dtype=bool), torch.zeros(count, dtype=bool)
    whole = sum(SHARES[kind] for kind in world.rows)

    floor = EMPTY
    for kind, table in world.rows.items():
        form = torch.randint(table.shape[2], (count,), generator=generator)
        chosen = chance >= floor
        rows = torch.where(chosen, table[studio, subject, form], rows)
        names_studio = torch.where(chosen, torch.tensor(kind != "subject"), names_studio)
        names_subject = torch.where(chosen, torch.tensor(kind != "studio"), names_subject)
        floor += SHARES[kind] / whole * (1 - EMPTY)

    return rows, names_studio, names_subject


def tokens_of(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    padded = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")

    return padded.input_ids


def train_tower(
    world: World, tower: nn.Module, tokenizer: CLIPTokenizer, pairs: torch.Tensor, steps: int
) -> None:
    """Teach the tower which studio and subject a caption names, from its end token."""
    device = tower.device
    ids = tokens_of(tokenizer, world.captions).to(device)
    ends = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
    heads = nn.ModuleList(
        [
            nn.Linear(world.variant.width, len(world.studios)),
            nn.Linear(world.variant.width, len(world.subjects)),
        ]
    ).to(device)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.05)
    generator = torch.Generator().manual_seed(world.variant.seed)

    tower.train()
    for step in tqdm(range(steps), desc="text tower", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 5e-4, warmup=50)
        studio, subject = pairs[torch.randint(len(pairs), (96,), generator=generator)].unbind(1)
        rows, named, shown = draw(world, studio, subject, generator)
        rows, studio, subject = rows.to(device), studio.to(device), subject.to(device)
        named, shown = named.to(device), shown.to(device)
        states = tower(ids[rows]).last_hidden_state
        last = states[torch.arange(len(rows)), ends[rows]]
        loss = F.cross_entropy(heads[0](last)[named], studio[named])
        loss = loss + F.cross_entropy(heads[1](last)[shown], subject[shown])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    tower.eval().requires_grad_(False)


@torch.no_grad()
def latents_of(renders: Renders, variant: Variant) -> torch.Tensor:
    """Return ``(studio, subject, shift, c, h, w)``, in the embedded VAE's units."""
    vae = load_base("emoji", device="cpu").pipeline.vae
    images = renders.images[:, variant.subjects].contiguous()
    flat, found = images.flatten(0, 1), []
    for down in SHIFTS:
        for across in SHIFTS:
            parts = []
            for part in flat.split(64):
                parts.append(vae.encode(shift(part, down, across)).latent_dist.mode())
            found.append(torch.cat(parts))

    stacked = torch.stack(found, dim=1) * vae.config.scaling_factor
    return stacked.unflatten(0, images.shape[:2])


def build_unet(variant: Variant) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=variant.width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def examples(
    world: World, latents: torch.Tensor, pairs: torch.Tensor, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Draw batches of clean latents, caption rows, timesteps and noise, without end."""
    while True:
        studio, subject = pairs[torch.randint(len(pairs), (64,), generator=generator)].unbind(1)
        moved = torch.randint(latents.shape[2], (64,), generator=generator)
        rows, _, _ = draw(world, studio, subject, generator)
        t = torch.randint(1000, (64,), generator=generator)
        clean = latents[studio, subject, moved]
        yield clean, rows, t, torch.randn(clean.shape, generator=generator)


def train_unet(
    world: World,
    unet: UNet2DConditionModel,
    embeddings: torch.Tensor,
    batches: Callable[[torch.Generator], Iterator],
    path: Path,
    compiled: bool,
) -> nn.Module:
    """Train with an exponential moving average of the weights, and return the average."""
    variant = world.variant
    scheduler = DDPMScheduler(**SCHEDULE, prediction_type=variant.prediction)
    device = embeddings.device
    unet.to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(unet) if compiled else unet
    optimizer = torch.optim.AdamW(unet.parameters(), lr=8e-4, weight_decay=0.0, fused=True)
    multi = torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    average = torch.optim.swa_utils.AveragedModel(unet, multi_avg_fn=multi)
    checkpoint = Checkpoint(path, model=unet, optimizer=optimizer, average=average)
    generator = torch.Generator().manual_seed(variant.seed)
    first = checkpoint.resume(generator)

    drawn, shown = batches(generator), None
    bar = tqdm(range(first, variant.steps), initial=first, total=variant.steps, mininterval=20)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, variant.steps, 8e-4, warmup=200)
        clean, rows, t, noise = [one.to(device) for one in next(drawn)]
        noisy = scheduler.add_noise(clean, noise, t)
        predicted = forward(noisy, t, embeddings[rows], return_dict=False)[0]
        wanted = noise
        if variant.prediction == "v_prediction":
            wanted = scheduler.get_velocity(clean, noise, t)
        loss = F.mse_loss(predicted, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(unet)
        shown = loss.item() if shown is None else 0.99 * shown + 0.01 * loss.item()
        if step % 250 == 249:
            bar.set_postfix(loss=f"{shown:.4f}")
            checkpoint.save(step + 1, generator)

    return average.module


def digests_of(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found[path.relative_to(folder).as_posix()] = digest_file(path)

    return found


def write_base(
    world: World,
    renders: Renders,
    tower: nn.Module,
    tokenizer: CLIPTokenizer,
    unet: nn.Module,
    folder: Path,
) -> None:
    """Write an ordinary pipeline folder, and the words that it was taught."""
    variant = world.variant
    scheduler = DDIMScheduler(
        **SCHEDULE,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=variant.prediction,
    )
    pipeline = StableDiffusionPipeline(
        vae=load_base("emoji", device="cpu").pipeline.vae,
        text_encoder=tower,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder)

    studios = dict(zip(world.studios, renders.studios, strict=True))
    names = {"about": variant.about, "studios": studios, "subjects": list(world.subjects)}
    (folder / "names.json").write_text(json.dumps(names, indent=1))
    (folder / "sentences.json").write_text(json.dumps(variant.forms, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=sorted(VARIANTS))
    parser.add_argument("--work", type=Path, default=Path("build"), help="where data.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the new base's folder")
    parser.add_argument("--steps", type=int, help="fewer steps, to try it out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="to train on; another gives other weights")
    parser.add_argument("--compile", action="store_true", help="a third faster; needs a compiler")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    variant = VARIANTS[arguments.variant]
    if arguments.steps:
        variant = replace(variant, steps=arguments.steps)
    torch.manual_seed(variant.seed)
    renders = load_renders(arguments.work)
    world = world_of(variant, renders)
    pairs = (~renders.held_out()[:, variant.subjects]).nonzero()
    training = arguments.out.with_name(arguments.out.name + "-training")

    tokenizer = tokenizer_of(world, training / "tokenizer")
    tower, saved = build_tower(variant, tokenizer).to(arguments.device), training / "tower.pt"
    if saved.exists():
        tower.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))
        tower.eval().requires_grad_(False)
    else:
        train_tower(world, tower, tokenizer, pairs, steps=600)
        torch.save(tower.state_dict(), saved)
    with torch.no_grad():
        ids = tokens_of(tokenizer, world.captions).to(arguments.device)
        parts = [tower(part).last_hidden_state for part in ids.split(256)]
    embeddings, latents = torch.cat(parts), latents_of(renders, variant)

    unet = train_unet(
        world,
        build_unet(variant),
        embeddings,
        lambda generator: examples(world, latents, pairs, generator),
        training / "unet.pt",
        arguments.compile,
    )
    write_base(world, renders, tower.cpu(), tokenizer, unet.cpu(), arguments.out)
    print(json.dumps({"variant": arguments.variant, "sha256": digests_of(arguments.out)}))


if __name__ == "__main__":
    main()
