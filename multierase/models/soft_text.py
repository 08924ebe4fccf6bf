"""A text tower that reads vectors in the place of tokens, so that gradients reach them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from multierase.errors import UsageError
from multierase.models.conditioning import Conditioning
from multierase.models.model import Model

ONE_TOWER = ("stable-diffusion",)


def require_one_tower(model: Model) -> None:
    """Raise ``UsageError`` for a family whose towers have vectors of several widths."""
    if model.family not in ONE_TOWER:
        raise UsageError(
            f"{model.name} is of the family {model.family!r}, whose prompts several text towers "
            f"read: attacks on tokens fit {', '.join(ONE_TOWER)}"
        )


class SoftText:
    """The text side of a model, open at the token embeddings.

    Args:
        model: of a family whose conditioning is the states of one text tower.

    Attributes:
        table: ``(V, d)`` token embeddings.
        ordinary: ``(V,)``, true for the tokens that stand for text.
        most: how many tokens fit between begin and end.

    Raises:
        UsageError: for another family: its towers have vectors of several widths.
    """

    def __init__(self, model: Model):
        require_one_tower(model)
        tower: Any = model.text.tower
        self.tower = tower
        self.reader = model.text.readers[0]
        self.tokenizer = self.reader.tokenizer
        self.table = tower.get_input_embeddings().weight.detach()
        self.most = self.reader.max_length - self.reader.begin - self.reader.end

        special = [*self.tokenizer.all_special_ids]
        self.ordinary = torch.ones(len(self.table), dtype=torch.bool, device=self.table.device)
        self.ordinary[[index for index in special if index < len(self.table)]] = False

    def ids(self, prompt: str) -> list[int]:
        """Return a prompt's own tokens, as many as fit."""
        return self.reader.own_ids(prompt)[: self.most]

    def text(self, ids: Sequence[int]) -> str:
        """Return tokens as text."""
        return self.tokenizer.decode(list(ids)).strip()

    def vectors(self, ids: Sequence[int]) -> torch.Tensor:
        """Return ``(n, d)`` embeddings of tokens."""
        return self.table[torch.tensor(list(ids), dtype=torch.long, device=self.table.device)]

    def place_of(self, name: str, prompt: str) -> slice | None:
        """Return where a prompt's tokens have those of a name; ``None`` if they do not."""
        own, sought = self.ids(prompt), self.ids(name)
        for start in range(len(own) - len(sought) + 1):
            if sought and own[start : start + len(sought)] == sought:
                return slice(start, start + len(sought))

        return None

    @torch.no_grad()
    def encode_ids(self, ids: Sequence[int]) -> Conditioning:
        """Encode one sentence of tokens, which need not be what its text is cut into."""
        return self.encode(self.vectors(ids)[None])

    def encode(self, vectors: torch.Tensor) -> Conditioning:
        """Encode sentences of vectors as the pipeline encodes prompts; gradients flow to them.

        Args:
            vectors: ``(b, n, d)`` in the place of the tokens between begin and end.

        Raises:
            ValueError: for more than ``most``.
        """
        count, length, _ = vectors.shape
        if length > self.most:
            raise ValueError(f"{length} tokens, at most {self.most} fit between begin and end")

        tokenizer = self.tokenizer
        # Any token may stand where the vectors will be, but for the end, which the tower looks for.
        filler = int(self.ordinary.nonzero()[0])
        row = [tokenizer.bos_token_id, *[filler] * length, tokenizer.eos_token_id]
        row += [tokenizer.pad_token_id] * (self.reader.max_length - len(row))
        ids = torch.tensor([row] * count, device=self.table.device)

        def replaced(module: Any, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            begin, end = embedded[:, :1], embedded[:, 1 + length :]
            return torch.cat([begin, vectors.to(embedded.dtype), end], dim=1)

        hook = self.tower.get_input_embeddings().register_forward_hook(replaced)
        try:
            return Conditioning({"tokens": self.tower(ids).last_hidden_state})
        finally:
            hook.remove()
