"""Partially denoised latents ``x_t``, made by guided sampling with a given model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from multierase.models.conditioning import Conditioning
from multierase.models.model import Sampler

POSITIONS_AT_ONCE = 2**17  # of latents without gradients: 8 pictures of 1024 pixels

Predict = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]
Guide = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


@dataclass
class EvaluationCounter:
    """Evaluations of the denoiser on one latent.

    Those of the frozen base and of sampling count one each. A training step counts what its forward
    and backward cost in floating-point operations beside a forward, measured.
    """

    forward: int = 0
    trained: int = 0
    step_cost: float = 0.0

    @property
    def total(self) -> float:
        return self.forward + self.trained * self.step_cost


@dataclass
class Batch:
    """One training step's examples.

    Args:
        x_t: ``(b, c, h, w)`` latents.
        t: ``(b,)`` timesteps.
        text: what the erased model is prompted with.
        null: the prompts' contexts.
        target: ``(b, c, h, w)``, the ESD target.
        eps_concept, eps_null: the frozen base's predictions for prompt and context.
        kept: as many prompts to keep; an empty batch if there are none.
        eps_kept: the base's predictions for them on the same latents.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    text: Conditioning
    null: Conditioning
    target: torch.Tensor
    eps_concept: torch.Tensor
    eps_null: torch.Tensor
    kept: Conditioning
    eps_kept: torch.Tensor

    def __len__(self) -> int:
        return len(self.x_t)

    def take(self, index: torch.Tensor | slice) -> Batch:
        """Return some of the examples."""
        return Batch(*(_taken(part, index) for part in self._parts()))

    @classmethod
    def cat(cls, batches: Sequence[Batch]) -> Batch:
        """Join examples of one erasure."""
        columns = zip(*(batch._parts() for batch in batches), strict=True)

        return cls(*(_joined(parts) for parts in columns))

    def _parts(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]


def _taken(part: Any, index: torch.Tensor | slice) -> Any:
    if len(part) == 0:
        return part

    return part.take(index) if isinstance(part, Conditioning) else part[index]


def _joined(parts: Sequence[Any]) -> Any:
    return Conditioning.cat(parts) if isinstance(parts[0], Conditioning) else torch.cat(list(parts))


def in_parts(
    predict: Predict, x_t: torch.Tensor, t: torch.Tensor, text: Conditioning
) -> torch.Tensor:
    """Predict a batch without gradients, a few large latents at once."""
    at_once = max(POSITIONS_AT_ONCE // math.prod(x_t.shape[-2:]), 1)
    parts = []
    for start in range(0, len(x_t), at_once):
        part = slice(start, start + at_once)
        parts.append(predict(x_t[part], t[part], text.take(part)))

    return torch.cat(parts) if len(parts) > 1 else parts[0]


def predict_pair(
    predict: Predict, x_t: torch.Tensor, t: torch.Tensor, text: Conditioning, null: Conditioning
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both predictions of classifier-free guidance, from one batch of ``2b``."""
    pair = Conditioning.cat([text, null])
    both = in_parts(predict, torch.cat([x_t, x_t]), torch.cat([t, t]), pair)
    eps_concept, eps_null = both.chunk(2)

    return eps_concept, eps_null


@torch.no_grad()
def trajectories(
    predict: Predict,
    sampler: Sampler,
    guide: Guide,
    noise: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    scale: float,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Sample whole guided trajectories, point by point.

    Arguments are those of ``denoise_partway``.

    Yields:
        ``x_t`` ``(b, c, h, w)``, ``t`` ``(b,)``, and the two predictions that lead on from there,
        ``ε(x_t, text)`` and ``ε(x_t, null)``: ``2b`` evaluations a point.
    """
    x_t = sampler.start(noise)
    for index, timestep in enumerate(sampler.timesteps):
        t = timestep.to(x_t.device).expand(len(x_t))
        eps_concept, eps_null = predict_pair(predict, x_t, t, text, null)
        yield x_t, t, eps_concept, eps_null

        x_t = sampler.step(guide(eps_concept, eps_null, scale), index, x_t)


@torch.no_grad()
def denoise_partway(
    predict: Predict,
    sampler: Sampler,
    guide: Guide,
    noise: torch.Tensor,
    stops: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Denoise each latent of a batch for its own number of steps.

    Args:
        predict: ``(x_t, t, conditioning) -> ε``.
        sampler: a deterministic sampler.
        guide: ``(eps_concept, eps_null, scale) -> ε``.
        noise: ``(b, c, h, w)`` standard normal.
        stops: ``(b,)`` numbers of steps, from 0 to one less than the sampler's; on the CPU.
        text, null: the prompt's and the empty prompt's conditioning.
        scale: of the guidance.

    Returns:
        ``x_t`` ``(b, c, h, w)`` and ``t`` ``(b,)``: the timestep that ``x_t`` belongs to.
    """
    x_t = sampler.start(noise)
    timesteps = sampler.timesteps.cpu()
    for index in range(int(stops.max())):
        going = (stops > index).nonzero().squeeze(1).to(x_t.device)
        t = timesteps[index].to(x_t.device).expand(len(going))
        pair = predict_pair(predict, x_t[going], t, text.take(going), null.take(going))
        x_t[going] = sampler.step(guide(*pair, scale), index, x_t[going])

    return x_t, timesteps[stops].to(x_t.device)
