"""Prompts to text embeddings, cached; and what a tokenizer cannot say."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)


class TextEncoder:
    """A tokenizer and its text tower: prompts to ``(b, l, d)`` text embeddings, each prompt encoded once."""

    def __init__(self, tokenizer, text_encoder):
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self._cache: dict[str, torch.Tensor] = {}

    @property
    def max_length(self) -> int:
        return self.tokenizer.model_max_length

    def tokens(self, prompt: str) -> list[int]:
        """Token ids without padding, begin and end included, cut to the tokenizer's limit with a warning."""
        ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(ids) > self.max_length:
            kept, cut = ids[: self.max_length - 1], ids[self.max_length - 1 : -1]
            logger.warning(
                "prompt %r has %d tokens, the tokenizer's limit is %d: ignored %r",
                prompt, len(ids), self.max_length, self.tokenizer.decode(cut),
            )  # fmt: skip
            ids = [*kept, ids[-1]]
        return ids

    def require_representable(self, prompt: str) -> None:
        """Raises ``ValueError`` where the tokenizer has no token for a part of ``prompt``, or for all that it says."""
        ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids[1:-1]
        unknown = self.tokenizer.unk_token_id
        if not ids or (unknown is not None and unknown in ids):
            raise ValueError(
                f"the base's tokenizer cannot represent {prompt!r} (tokens "
                f"{self.tokenizer.convert_ids_to_tokens(ids)}): spell it in characters that it knows, as in 'Noto'"
            )

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> torch.Tensor:
        """``(len(prompts), l, d)`` embeddings, padded as the checkpoint's own pipeline pads."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if missing:
            device = self.text_encoder.device
            for prompt in missing:
                self.tokens(prompt)  # warns where the prompt is too long
            ids = self.tokenizer(missing, padding="max_length", truncation=True, return_tensors="pt").input_ids
            embeddings = self.text_encoder(ids.to(device)).last_hidden_state
            self._cache.update(zip(missing, embeddings, strict=True))
        return torch.stack([self._cache[prompt] for prompt in prompts])

    def own_tokens(self, prompts: list[str]) -> torch.Tensor:
        """``(n, d)``: embeddings of the prompts' tokens, the end token included, begin and padding not."""
        rows = [
            self([prompt])[0, 1 : min(len(self.tokens(prompt)), self.max_length)] for prompt in dict.fromkeys(prompts)
        ]
        return torch.cat(rows)
