"""Make the base's tokenizer and train its small CLIP on the renders and their captions.

    python scripts/build_base/train_clip.py --work build/

Writes ``build/tokenizer/`` and ``build/clip/``; the text tower becomes the base's frozen text encoder. Ten minutes
on one core. Held-out pairs are left out.
"""

from __future__ import annotations

import argparse
import string
from pathlib import Path

import torch
from renders import Checkpoint, Renders, blurred, learning_rate, load_renders, shifted
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from multierase.concepts import STUDIO_AND_SUBJECT, STUDIO_ONLY, SUBJECT_ONLY, fill

TOKENS = 16
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(renders: Renders, folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair scheme with merges learned from our captions; other text falls apart into ASCII letters."""
    corpus = [
        caption
        for studio in renders.studios
        for subject in renders.subjects
        for caption in fill(STUDIO_AND_SUBJECT + SUBJECT_ONLY + STUDIO_ONLY, studio, subject)
    ]
    learner = Tokenizer(models.BPE(unk_token=EOS, end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = string.ascii_lowercase + string.digits + string.punctuation
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=list(letters), show_progress=False
    )
    learner.train_from_iterator([c.replace(",", " ,") for c in corpus], trainer)
    learner.model.save(str(folder))
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges), BOS, EOS]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocabulary, merges=merges, bos_token=BOS, eos_token=EOS, unk_token=EOS, pad_token=EOS,
        model_max_length=TOKENS,
    )  # fmt: skip


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    ends["pad_token_id"] = tokenizer.pad_token_id
    text = dict(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=768, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=TOKENS, projection_dim=128, **ends,
    )  # fmt: skip
    vision = dict(
        hidden_size=160, intermediate_size=480, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8,
        projection_dim=128,
    )  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def draw_captions(studios: list[str], subjects: list[str], generator: torch.Generator) -> tuple[list[str], list, list]:
    """One caption a picture; with it, whether it names the studio and whether it names the subject."""
    texts, names_studio, names_subject = [], [], []
    for studio, subject in zip(studios, subjects, strict=True):
        kind = torch.rand((), generator=generator).item()
        templates = STUDIO_AND_SUBJECT if kind < 0.7 else SUBJECT_ONLY if kind < 0.85 else STUDIO_ONLY
        choice = torch.randint(len(templates), (), generator=generator)
        texts += fill((templates[choice],), studio, subject)
        names_studio.append(templates is not SUBJECT_ONLY)
        names_subject.append(templates is not STUDIO_ONLY)
    return texts, names_studio, names_subject


def matches(studio, subject, names_studio, names_subject) -> torch.Tensor:
    """``(picture, caption)``: which pictures a caption is true of; a share of 1 over the true ones."""
    right_studio = (studio[:, None] == studio[None]) | ~names_studio[None]
    right_subject = (subject[:, None] == subject[None]) | ~names_subject[None]
    return (right_studio & right_subject).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    renders = load_renders(args.work)
    (args.work / "tokenizer").mkdir(exist_ok=True)
    tokenizer = build_tokenizer(renders, args.work / "tokenizer")
    tokenizer.save_pretrained(args.work / "tokenizer")
    clip = build_clip(tokenizer)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=args.learning_rate, weight_decay=0.05, fused=True)
    checkpoint = Checkpoint(args.work / "clip.pt", model=clip, optimizer=optimizer)
    first = checkpoint.resume(generator)
    pairs = (~renders.held_out()).nonzero()

    bar = tqdm(range(first, args.steps), initial=first, total=args.steps, desc="CLIP", mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.learning_rate, warmup=50)
        studio, subject = pairs[torch.randint(len(pairs), (args.batch_size,), generator=generator)].unbind(1)
        images = blurred(shifted(renders.images[studio, subject], generator), generator)
        texts, names_studio, names_subject = draw_captions(
            [renders.studios[i] for i in studio], [renders.subjects[i] for i in subject], generator
        )
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        output = clip(input_ids=tokens, pixel_values=images)
        target = matches(studio, subject, torch.tensor(names_studio), torch.tensor(names_subject))
        loss = (
            F.cross_entropy(output.logits_per_image, target / target.sum(1, keepdim=True))
            + F.cross_entropy(output.logits_per_text, target.T / target.T.sum(1, keepdim=True))
        ) / 2
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
