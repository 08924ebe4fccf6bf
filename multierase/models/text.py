"""Encode prompts to text embeddings, each once; find what a tokenizer cannot represent."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

logger = logging.getLogger(__name__)


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
            self._cache.update(zip(missing, self._encode(missing), strict=True))

        return torch.stack([self._cache[prompt] for prompt in prompts])

    def own_tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return ``(n, d)``: the prompts' tokens, the end token included, begin and padding not."""
        rows = []
        for prompt in dict.fromkeys(prompts):
            end = min(len(self.token_ids(prompt)), self.max_length)
            rows.append(self([prompt])[0, 1:end])

        return torch.cat(rows)

    def _encode(self, prompts: list[str]) -> torch.Tensor:
        for prompt in prompts:
            self.token_ids(prompt)  # warns of a prompt that is too long

        padded = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        return self.text_encoder(padded.input_ids.to(self.text_encoder.device)).last_hidden_state
