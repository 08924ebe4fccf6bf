"""Learn the tokenizer and train the two text towers on captions.

    python scripts/build_type/train_text.py --work build/type

Each tower learns which typeface and which glyph a caption names, or that it names none, from its
pooled vector and from the layer before the last, as the transformer reads both. Words that say
nothing are put into half of the captions. Pairs that are held out are left out. Writes
``tokenizer/``, ``text_encoder/``, ``text_encoder_2/`` and ``text.json`` (accuracies, on forms of
captions that were never seen too). Ten minutes on one core; a checkpoint every 100 steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from captions import (
    FILLERS,
    UNSEEN,
    Captions,
    draw,
    every_caption,
    fill,
    made_up_words,
)
from from_base import Checkpoint, learn_tokenizer, learning_rate, seeded, set_rate, training_parser
from glyphs import GLYPHS, load_renders
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

TOKENS = 16
# The smaller one first, with their activations, as Stable Diffusion 3 has them.
TOWERS = {
    "text_encoder": {"hidden_size": 96, "num_hidden_layers": 3, "hidden_act": "quick_gelu"},
    "text_encoder_2": {"hidden_size": 160, "num_hidden_layers": 4, "hidden_act": "gelu"},
}
EMPTY = 0.05  # share of empty captions
DISTURBED = 0.3  # share of captions that get a word more, and then again
MADE_UP, PIECES = 3000, 5  # words at most, and pieces of a word at most
SAVE_EVERY = 100
MEASURED = 4000  # captions


def tokenizer_of(captions: Captions, folder: Path) -> CLIPTokenizer:
    """Learn the tokenizer once: ties of merges fall otherwise the next time."""
    if not (folder / "tokenizer_config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        texts = [*captions.texts, *FILLERS]
        learn_tokenizer(texts, folder, TOKENS).save_pretrained(folder)

    return CLIPTokenizer.from_pretrained(folder)


def build_tower(name: str, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Return an untrained tower."""
    shape = TOWERS[name]
    width = shape["hidden_size"]
    config = CLIPTextConfig(
        **shape,
        vocab_size=len(tokenizer),
        intermediate_size=3 * width,
        num_attention_heads=4,
        projection_dim=width,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    return CLIPTextModelWithProjection(config)


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return ``(text, token)`` numbers."""
    padded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")

    return padded.input_ids


class Disturbance:
    """Puts words that say nothing into captions, by chance."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self.end = tokenizer.eos_token_id
        # Begin and end are not part of a word.
        known = [tokenizer(word).input_ids[1:-1] for word in FILLERS]
        made_up = [tokenizer(word).input_ids[1:-1] for word in made_up_words(MADE_UP)]
        self.kinds = [known, [word for word in made_up if len(word) <= PIECES]]

    def __call__(self, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return ``(b, token)`` numbers in which some rows have a word or two more."""
        found = tokens.clone()
        for _ in range(2):
            chosen = torch.rand(len(found), generator=generator) < DISTURBED
            for row in chosen.nonzero().flatten().tolist():
                words = self.kinds[torch.randint(2, (), generator=generator)]
                word = words[torch.randint(len(words), (), generator=generator)]
                end = int((found[row] == self.end).int().argmax())
                if end + len(word) < found.shape[1]:
                    place = int(torch.randint(1, end + 1, (), generator=generator))
                    found[row, place + len(word) :] = found[row, place : -len(word)].clone()
                    found[row, place : place + len(word)] = torch.tensor(word)

        return found


class Reader(nn.Module):
    """A tower, and what tells typeface and glyph from its two outputs; the last class is none."""

    def __init__(self, tower: CLIPTextModelWithProjection, typefaces: int):
        super().__init__()
        width = tower.config.hidden_size
        self.tower, self.end = tower, tower.config.eos_token_id
        self.counts = (typefaces + 1, len(GLYPHS) + 1)
        self.of_pooled = nn.Linear(width, sum(self.counts))
        self.of_hidden = nn.Linear(width, sum(self.counts))

    def forward(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """Return the answers about typeface and glyph, from the pooled vector, then from within."""
        output = self.tower(tokens, output_hidden_states=True)
        ends = (tokens == self.end).int().argmax(dim=1)
        hidden = output.hidden_states[-2][torch.arange(len(tokens)), ends]

        answers = []
        for answer in (self.of_pooled(output.text_embeds), self.of_hidden(hidden)):
            answers += answer.split(self.counts, dim=1)
        return answers


def loss_of(reader: Reader, tokens: torch.Tensor, about: torch.Tensor) -> torch.Tensor:
    """Return the loss of captions that are ``about`` a typeface and a glyph, -1 for none."""
    loss = torch.zeros((), device=tokens.device)
    for place, answer in enumerate(reader(tokens)):
        named = about[:, place % 2]
        loss = loss + F.cross_entropy(answer, named % answer.shape[1])

    return loss


@torch.no_grad()
def accuracy(reader: Reader, tokens: torch.Tensor, about: torch.Tensor) -> list[float]:
    """Return the shares of captions that are read rightly: typeface and glyph, pooled, within."""
    right = torch.zeros(4)
    for part, truth in zip(tokens.split(256), about.split(256), strict=True):
        for place, answer in enumerate(reader(part.to(reader.tower.device))):
            seen = answer.argmax(1).cpu()
            right[place] += (seen == truth[:, place % 2] % answer.shape[1]).sum()

    return [round(share, 4) for share in (right / len(tokens)).tolist()]


def unseen_captions(typefaces: list[str]) -> tuple[list[str], torch.Tensor]:
    """Return captions in forms that were never seen, and what they are about."""
    texts, about = [], []
    for one, typeface in enumerate(typefaces):
        for other, glyph in enumerate(GLYPHS):
            for text in fill(UNSEEN, glyph, typeface):
                texts.append(text)
                about.append((one, other))

    return texts, torch.tensor(about)


def parsed() -> argparse.Namespace:
    parser = training_parser(__doc__, 1200, 128, 1e-3, "build/type")
    parser.add_argument("--device", default="cpu")

    return parser.parse_args()


def main() -> None:
    args = parsed()
    generator = seeded(args)
    renders = load_renders(args.work)
    captions = every_caption(renders.typefaces)
    tokenizer = tokenizer_of(captions, args.work / "tokenizer")
    tokens, disturb = tokens_of(tokenizer, captions.texts), Disturbance(tokenizer)
    about, pairs = captions.about.to(args.device), (~renders.held_out()).nonzero()

    towers = [build_tower(name, tokenizer) for name in TOWERS]
    readers = nn.ModuleList([Reader(tower, len(renders.typefaces)) for tower in towers])
    readers.to(args.device)
    optimizer = torch.optim.AdamW(
        readers.parameters(), lr=args.learning_rate, weight_decay=0.05, fused=True
    )
    checkpoint = Checkpoint(args.work / "text.pt", model=readers, optimizer=optimizer)
    first = checkpoint.resume(generator)

    bar = tqdm(range(first, args.steps), initial=first, total=args.steps, desc="text")
    for step in bar:
        set_rate(optimizer, learning_rate(step, args.steps, args.learning_rate, warmup=50))
        chosen = pairs[torch.randint(len(pairs), (args.batch_size,), generator=generator)]
        rows = draw(captions, *chosen.unbind(1), EMPTY, generator)
        read, named = disturb(tokens[rows], generator).to(args.device), about[rows.to(args.device)]
        losses = [loss_of(reader, read, named) for reader in readers]
        sum(losses).backward()
        torch.nn.utils.clip_grad_norm_(readers.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 19:
            bar.set_postfix(loss=" ".join(f"{loss.item():.3f}" for loss in losses))
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            checkpoint.save(step + 1, generator)

    known = torch.randperm(len(tokens), generator=generator)[:MEASURED]
    texts, truth = unseen_captions(renders.typefaces)
    some = torch.randperm(len(texts), generator=generator)[:MEASURED]
    unseen = tokens_of(tokenizer, [texts[place] for place in some.tolist()])
    report = {"captions": len(captions.texts), "tokens_in_vocabulary": len(tokenizer)}
    for name, reader in zip(TOWERS, readers.eval(), strict=True):
        report[name] = {
            "known": accuracy(reader, tokens[known], captions.about[known]),
            "unseen_forms": accuracy(reader, unseen, truth[some]),
        }
        reader.tower.save_pretrained(args.work / name)
    (args.work / "text.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
