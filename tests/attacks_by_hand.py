"""What attacks compute, once more with plain torch, numpy and diffusers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

Place = int | torch.Tensor
"""A token, or a vector ``(d,)`` in the place of one."""
ADAM = 1e-8  # of Adam's denominator


def encoded(pipeline: StableDiffusionPipeline, places: Sequence[Place]) -> torch.Tensor:
    """Encode a sentence: every vector is the embedding of a token that it has nowhere else."""
    tower, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    embedding = tower.get_input_embeddings().weight
    taken = {place for place in places if isinstance(place, int)} | {*tokenizer.all_special_ids}
    free = iter(index for index in range(len(embedding)) if index not in taken)

    table, row = embedding.detach().clone(), []
    for place in places:
        index = place if isinstance(place, int) else next(free)
        if not isinstance(place, int):
            table = table.index_put((torch.tensor(index),), place)
        row.append(index)
    row = [tokenizer.bos_token_id, *row, tokenizer.eos_token_id]
    row += [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))

    (name,) = (name for name, weight in tower.named_parameters() if weight is embedding)
    said = torch.func.functional_call(tower, {name: table}, (torch.tensor([row]),))
    return said.last_hidden_state


def asked(pipeline: StableDiffusionPipeline, prompt: str) -> torch.Tensor:
    """Encode a prompt as the pipeline does."""
    return pipeline.encode_prompt(prompt, torch.device("cpu"), 1, False)[0]


def own_ids(pipeline: StableDiffusionPipeline, prompt: str) -> list[int]:
    """Return a prompt's tokens between begin and end."""
    return pipeline.tokenizer(prompt).input_ids[1:-1]


def renoised(
    pipeline: StableDiffusionPipeline, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    return DDIMScheduler.from_config(pipeline.scheduler.config).add_noise(x_0, noise, t)


def first_step(
    value: torch.Tensor, gradient: torch.Tensor, rate: float, *, l2: float = 0, decay: float = 0
) -> torch.Tensor:
    """Take Adam's first step with an L2 penalty, or AdamW's with a decay.

    The two moments, corrected for their start, are the gradient and its square.
    """
    value, gradient = value.double(), gradient.double() + l2 * value.double()

    return value * (1 - rate * decay) - rate * gradient / (gradient.abs() + ADAM)


def on_simplex(row: np.ndarray) -> np.ndarray:
    """Project on the simplex by sorting (Duchi et al. 2008, figure 1)."""
    finite = np.isfinite(row)
    ordered = np.sort(row[finite].astype(np.float64))[::-1]
    too_much = np.cumsum(ordered) - 1
    rho = np.nonzero(ordered - too_much / np.arange(1, len(ordered) + 1) > 0)[0].max()
    theta = too_much[rho] / (rho + 1)

    return np.where(finite, np.maximum(np.where(finite, row, 0) - theta, 0), 0)
