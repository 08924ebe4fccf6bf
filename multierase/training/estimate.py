"""What an erasure will take, said before anything is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from multierase.models.model import Model
from multierase.training.defaults import kind_of, with_defaults
from multierase.training.settings import Asks, EraseSettings

TRIAL, CERTIFICATE = 330, 90  # evaluations, at most; what concepts of a run share is counted once
TIMED = 4  # latents that are predicted to see how fast the model is
BYTES = 4  # of a stored number


@dataclass(frozen=True)
class Estimate:
    """The most that erasing one concept may take.

    Args:
        evaluations: of the denoiser on one latent; an early stop takes fewer.
        seconds: of these evaluations on this machine as it is now. The dictionary, which is made
            once for a library, comes on top.
        bytes: of the increment's file; directions that are not needed make it smaller.
    """

    evaluations: int
    seconds: float
    bytes: int


def estimate(model: Model, settings: EraseSettings, *, asks: Asks = "guidance") -> Estimate:
    """Estimate what one concept takes; a few latents are predicted to see how fast the model is.

    Args:
        asks: as ``multierase.methods.Method`` says it of the method.

    Raises:
        ValueError: for a scope that the model does not have.
        UsageError: for a kind that does not exist.
    """
    kind = kind_of(model, settings.kind)
    settings = with_defaults(settings, kind, model)
    names = model.scope_parameters(settings.scope or model.exact_scope)
    if asks == "nothing":
        return Estimate(0, 0.0, _bytes(model, list(model.readers), 0))

    if asks == "pictures":
        evaluations = _learning(settings)
    else:
        evaluations = _training(model, settings, names)
        evaluations += TRIAL + CERTIFICATE if kind is not None else 0
    return Estimate(
        evaluations, evaluations * _seconds(model), _bytes(model, names, settings.rank or 0)
    )


def _training(model: Model, settings: EraseSettings, names: list[str]) -> int:
    """Return the evaluations of sampling and of the steps, a backward pass included."""
    latents = (settings.steps or 0) * settings.batch_size
    if settings.schedule == "pooled":
        points = settings.trajectories * settings.sampler_steps
        sampled = 2 * points * settings.prompts_per_point
    else:
        sampled = latents * (settings.sampler_steps + 2)  # two at each of half of the steps

    # Where weights read the text alone, a backward pass needs no gradients of other weights.
    cost = 2 if all(name in model.readers for name in names) else 3
    kept = 2 if settings.keep_weight else 1
    return sampled + latents * cost * kept


def _learning(settings: EraseSettings) -> int:
    """Return the evaluations of drawing pictures and of learning from them."""
    latents = (settings.steps or 0) * settings.batch_size
    pictures = min(settings.sampling_batch, latents)

    return 2 * pictures * settings.sampler_steps + 3 * latents


def _seconds(model: Model) -> float:
    """Time one evaluation, in a batch of a few."""
    x_t = torch.zeros(TIMED, *model.latent_shape, device=model.device)
    t = model.sampler(2).timesteps[:1].to(model.device).expand(TIMED)
    text = model.encode([""] * TIMED)

    times = []
    with torch.no_grad():
        for _ in range(2):  # the first one is slow
            began = time.perf_counter()
            model.predict(x_t, t, text).sum().item()
            times.append(time.perf_counter() - began)

    return min(times) / TIMED


def _bytes(model: Model, names: list[str], rank: int) -> int:
    here = model.parameters()
    # Directions and Gram matrices of what reads the text, which its parameters share.
    widths = {model.readers[name]: here[name].shape[1] for name in names if name in model.readers}
    numbers = sum(2 * width * width for width in widths.values())
    for name in names:
        shape = here[name].shape
        whole = here[name].numel()
        low = rank * sum(shape) if len(shape) == 2 and rank and name not in model.readers else whole
        numbers += min(low, whole)

    return BYTES * numbers
