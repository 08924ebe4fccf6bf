"""Joint attention in which one row of text stands for many equal ones.

Without T5, Stable Diffusion 3's pipeline gives the transformer 256 rows of zeros after CLIP's rows.
They are equal in every block, so one of them does, if its key counts so many times: the logarithm
of the count is added to its logits. That is exact, and a fourth of the cost. In training the count
is drawn anew for each step, so that the base draws alike with 256 rows (the pipeline's default), or
with a few.
"""

from __future__ import annotations

import math

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch.nn import functional as F

ROWS = 256  # the pipeline's default


def _heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Return ``(b, head, token, d)`` of ``(b, token, head * d)``."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


class CountedAttention:
    """Joint attention as diffusers has it, with the last row of text counted ``exp(bias)``."""

    def __init__(self) -> None:
        self.bias = torch.zeros(())

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        places, heads = hidden_states.shape[1], attn.heads
        query = attn.norm_q(_heads(attn.to_q(hidden_states), heads))
        key = attn.norm_k(_heads(attn.to_k(hidden_states), heads))
        value = _heads(attn.to_v(hidden_states), heads)

        text = encoder_hidden_states
        added_query = attn.norm_added_q(_heads(attn.add_q_proj(text), heads))
        added_key = attn.norm_added_k(_heads(attn.add_k_proj(text), heads))
        query = torch.cat([query, added_query], dim=2)
        key = torch.cat([key, added_key], dim=2)
        value = torch.cat([value, _heads(attn.add_v_proj(text), heads)], dim=2)

        last = F.pad(self.bias.to(query).view(1), (key.shape[2] - 1, 0)).view(1, 1, 1, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=last)
        mixed = mixed.transpose(1, 2).flatten(2)
        pictured, text = mixed[:, :places], mixed[:, places:]
        if not attn.context_pre_only:
            text = attn.to_add_out(text)

        return attn.to_out[1](attn.to_out[0](pictured)), text


def count_last_row(transformer: SD3Transformer2DModel) -> CountedAttention:
    """Put one counting processor on every block, and return it."""
    processor = CountedAttention()
    transformer.set_attn_processor(processor)

    return processor


def draw_count(generator: torch.Generator) -> torch.Tensor:
    """Draw the logarithm of a count: half of the time the default, else from 1 to it."""
    draw = torch.rand(2, generator=generator)
    share = torch.where(draw[0] < 0.5, torch.ones(()), draw[1])

    return math.log(ROWS) * share
