"""Make the base's tokenizer and train its small CLIP on the renders and their captions.

    python scripts/build_base/train_clip.py --work build/

Writes ``build/tokenizer/`` and ``build/clip/``; the text tower becomes the base's frozen text
encoder. Ten minutes on one core. Held-out pairs are left out.
"""

from __future__ import annotations

import argparse
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
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
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from multierase.emoji import STUDIO_AND_SUBJECT, STUDIO_ONLY, SUBJECT_ONLY, fill

TOKENS = 16
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def build_tokenizer(renders: Renders, folder: Path) -> CLIPTokenizer:
    """Make the tokenizer of the embedded base's captions."""
    captions = []
    for studio in renders.studios:
        for subject in renders.subjects:
            captions += fill(STUDIO_AND_SUBJECT + SUBJECT_ONLY + STUDIO_ONLY, studio, subject)

    return learn_tokenizer(captions, folder, TOKENS)


def learn_tokenizer(captions: Sequence[str], folder: Path, length: int) -> CLIPTokenizer:
    """Learn merges from captions, in CLIP's byte-pair scheme.

    Other text falls apart into ASCII letters.

    Args:
        length: tokens of a prompt at most, begin and end included.
    """
    learner = Tokenizer(models.BPE(unk_token=EOS, end_of_word_suffix=WORD_END))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = string.ascii_lowercase + string.digits + string.punctuation
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        end_of_word_suffix=WORD_END,
        initial_alphabet=list(letters),
        show_progress=False,
    )
    learner.train_from_iterator([caption.replace(",", " ,") for caption in captions], trainer)
    learner.model.save(str(folder))

    lines = (folder / "merges.txt").read_text().splitlines()[1:]
    merges = [tuple(line.split()) for line in lines]
    pieces = [*letters, *(letter + WORD_END for letter in letters)]
    pieces += ["".join(merge) for merge in merges]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, BOS, EOS]))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=EOS,
        pad_token=EOS,
        model_max_length=length,
    )


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained CLIP."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": TOKENS,
        "projection_dim": 128,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 160,
        "intermediate_size": 480,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": 128,
    }

    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


@dataclass
class Captions:
    """One caption for each picture, and whether it names the studio and the subject."""

    texts: list[str] = field(default_factory=list)
    names_studio: list[bool] = field(default_factory=list)
    names_subject: list[bool] = field(default_factory=list)


def draw_captions(studios: list[str], subjects: list[str], generator: torch.Generator) -> Captions:
    """Draw a caption for each picture by chance."""
    captions = Captions()
    for studio, subject in zip(studios, subjects, strict=True):
        kind = torch.rand((), generator=generator).item()
        if kind < 0.7:
            templates = STUDIO_AND_SUBJECT
        else:
            templates = SUBJECT_ONLY if kind < 0.85 else STUDIO_ONLY

        choice = torch.randint(len(templates), (), generator=generator)
        captions.texts += fill((templates[choice],), studio, subject)
        captions.names_studio.append(templates is not SUBJECT_ONLY)
        captions.names_subject.append(templates is not STUDIO_ONLY)

    return captions


def matches(studio: torch.Tensor, subject: torch.Tensor, captions: Captions) -> torch.Tensor:
    """Return ``(picture, caption)``: 1 for the pictures that a caption is true of, else 0."""
    names_studio = torch.tensor(captions.names_studio)
    names_subject = torch.tensor(captions.names_subject)
    right_studio = (studio[:, None] == studio[None]) | ~names_studio[None]
    right_subject = (subject[:, None] == subject[None]) | ~names_subject[None]

    return (right_studio & right_subject).float()


def loss_of(output, target: torch.Tensor) -> torch.Tensor:
    """Return CLIP's loss; the true captions of a picture share its weight, and the other way."""
    by_image = F.cross_entropy(output.logits_per_image, target / target.sum(1, keepdim=True))
    by_text = F.cross_entropy(output.logits_per_text, target.T / target.T.sum(1, keepdim=True))

    return (by_image + by_text) / 2


def parsed() -> argparse.Namespace:
    return training_parser(__doc__, 500, 96, 1e-3).parse_args()


def main() -> None:
    args = parsed()
    generator = seeded(args)
    renders = load_renders(args.work)
    (args.work / "tokenizer").mkdir(exist_ok=True)
    tokenizer = build_tokenizer(renders, args.work / "tokenizer")
    tokenizer.save_pretrained(args.work / "tokenizer")

    clip = build_clip(tokenizer)
    optimizer = torch.optim.AdamW(
        clip.parameters(), lr=args.learning_rate, weight_decay=0.05, fused=True
    )
    checkpoint = Checkpoint(args.work / "clip.pt", model=clip, optimizer=optimizer)
    first = checkpoint.resume(generator)
    pairs = (~renders.held_out()).nonzero()

    bar = tqdm(
        range(first, args.steps), initial=first, total=args.steps, desc="CLIP", mininterval=5
    )
    for step in bar:
        set_rate(optimizer, learning_rate(step, args.steps, args.learning_rate, warmup=50))
        chosen = torch.randint(len(pairs), (args.batch_size,), generator=generator)
        studio, subject = pairs[chosen].unbind(1)
        images = blurred(shifted(renders.images[studio, subject], generator), generator)
        captions = draw_captions(
            [renders.studios[i] for i in studio], [renders.subjects[i] for i in subject], generator
        )
        tokens = tokenizer(
            captions.texts, padding="max_length", truncation=True, return_tensors="pt"
        )
        output = clip(input_ids=tokens.input_ids, pixel_values=images)
        target = matches(studio, subject, captions)
        loss = loss_of(output, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            clip.logit_scale.clamp_(max=4.6)  # CLIP's own bound, a temperature of 0.01

        if step % 20 == 19:
            right = target.gather(1, output.logits_per_image.argmax(1, keepdim=True)).mean()
            bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{right.item():.2f}")
        if step % 100 == 99:
            checkpoint.save(step + 1, generator)
    clip.save_pretrained(args.work / "clip")


if __name__ == "__main__":
    main()
