"""Encode prompts to text embeddings, each once; find what a tokenizer cannot represent."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import torch

from multierase.errors import ConceptRefused

logger = logging.getLogger(__name__)

ATTEMPTS = 1000
SHORTEST = 3  # letters of a word; shorter ones are mostly scraps
LEARNED = 0.5  # of the median distance from the mean embedding; a nearer one was never trained


class TextEncoder:
    """A tokenizer and its text tower, which encode prompts to ``(b, l, d)``."""

    def __init__(self, tokenizer, text_encoder):
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self._cache: dict[str, torch.Tensor] = {}

    @property
    def max_length(self) -> int:
        return self.tokenizer.model_max_length

    def token_ids(self, prompt: str) -> list[int]:
        """Return token ids, begin and end included, cut to the tokenizer's limit with a warning."""
        ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(ids) <= self.max_length:
            return ids

        kept, cut = ids[: self.max_length - 1], ids[self.max_length - 1 : -1]
        logger.warning(
            "prompt %r has %d tokens, the tokenizer's limit is %d: ignored %r",
            prompt,
            len(ids),
            self.max_length,
            self.tokenizer.decode(cut),
        )
        return [*kept, ids[-1]]

    def reads_whole(self, prompt: str) -> bool:
        """Return whether the tokenizer represents the whole prompt and cuts nothing off."""
        ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
        unknown = self.tokenizer.unk_token_id

        return len(ids) <= self.max_length and unknown not in ids[1:-1]

    def name_of_tokens(self, count: int, generator: random.Random) -> str:
        """Return a made-up name of ``count`` tokens, as near as can be: words run together."""
        words, nearest, least = self.words, "", None
        if not words:
            raise ConceptRefused(
                "this base's tokenizer has no whole words to make up names of, so whether the base "
                "draws a concept cannot be tried: give its --prompts"
            )
        for _ in range(ATTEMPTS):
            parts = generator.choices(words, k=generator.randint(1, count))
            name = "".join(parts)
            found = len(self.tokenizer(name, truncation=False, verbose=False).input_ids) - 2
            if found == count:
                return name
            if least is None or abs(found - count) < least:
                nearest, least = name, abs(found - count)

        return nearest

    def require_representable(self, prompt: str) -> None:
        """Raise ``ValueError`` if the tokenizer has no token for a part of ``prompt``, or none."""
        ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids[1:-1]
        unknown = self.tokenizer.unk_token_id
        if ids and (unknown is None or unknown not in ids):
            return

        tokens = self.tokenizer.convert_ids_to_tokens(ids)
        raise ValueError(
            f"the base's tokenizer cannot represent {prompt!r} (tokens {tokens}): spell it in "
            "characters that it knows, as in 'Noto'"
        )

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return ``(len(prompts), l, d)``, padded as the checkpoint's own pipeline pads."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if missing:
            for prompt in missing:
                self.token_ids(prompt)  # warns of a prompt that is too long
            self._cache.update(zip(missing, self._encode(missing), strict=True))

        return torch.stack([self._cache[prompt] for prompt in prompts])

    @torch.no_grad()
    def fresh(self, prompts: Sequence[str]) -> torch.Tensor:
        """Do as a call does, and remember nothing; prompts that are too long are cut silently."""
        return self._encode(list(prompts))

    def own_tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return ``(n, d)``: the prompts' tokens, the end token included, begin and padding not."""
        rows = []
        for prompt in dict.fromkeys(prompts):
            end = min(len(self.token_ids(prompt)), self.max_length)
            rows.append(self([prompt])[0, 1:end])

        return torch.cat(rows)

    @cached_property
    def words(self) -> list[str]:
        """Return the tokenizer's whole words, in lower case, in its own order: by frequency.

        A token that was never trained is left out: its embedding is still near the mean of all.
        """
        table = self.text_encoder.get_input_embeddings().weight.detach().float().cpu()
        far = (table - table.mean(0)).norm(dim=1)
        learned = far > LEARNED * far.median()

        vocabulary = self.tokenizer.get_vocab()
        whole = whole_word_of(vocabulary)
        words: dict[str, None] = {}
        for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
            word = whole(token)
            if word and index < len(table) and learned[index]:
                words.setdefault(word.lower())

        return list(words)

    def _encode(self, prompts: list[str]) -> torch.Tensor:
        padded = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        return self.text_encoder(padded.input_ids.to(self.text_encoder.device)).last_hidden_state


def whole_word_of(vocabulary: Collection[str]) -> Callable[[str], str | None]:
    """Return what gives a token's word, or ``None`` for a token that is no whole word.

    Tokenizers mark words in one of four ways: CLIP at the word's end (``cat</w>``), SentencePiece
    and byte-level BPE at its beginning (``▁cat``, ``Ġcat``), WordPiece every piece but the first
    (``##at``).
    """
    ends = any(token.endswith("</w>") for token in vocabulary)
    begins = next((mark for mark in "▁Ġ" if any(t.startswith(mark) for t in vocabulary)), "")

    def whole(token: str) -> str | None:
        word = token.removesuffix("</w>") if ends else token.removeprefix(begins)
        marked = word != token if ends or begins else not token.startswith("##")
        return word if marked and word.isalpha() and len(word) >= SHORTEST else None

    return whole
