"""Make pictures from seeds, with a model as it is composed now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tqdm import tqdm

from multierase.errors import DeviceError
from multierase.models.model import Model
from multierase.sampling import SamplingSettings

Encoded = Mapping[str, torch.Tensor]
"""Encoded prompts, as the model's pipeline takes them; batch first."""


def encode(model: Model, prompts: Sequence[str], settings: SamplingSettings) -> Encoded:
    """Encode prompts for ``generate``: the same bits as the pipeline gives for the same batch."""
    return model.pipeline_inputs(prompts, settings.guidance_scale > 1)


def generate(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingSettings | None = None,
    *,
    encoded: Encoded | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Make one picture for each prompt and seed, as plain diffusers would.

    A picture depends on its own prompt and seed alone, whatever else is in the call: each has its
    own generator.

    Args:
        model: as it is composed now.
        prompts, seeds: of equal length.
        settings: see ``SamplingSettings``.
        encoded: the prompts by ``encode``, for those that are asked for again and again.
        progress: show a progress bar on stderr.

    Returns:
        ``(n, 3, height, width)`` float32 in [0, 1], on the CPU.

    Raises:
        ValueError: for another number of seeds than of prompts, or no prompt.
        DeviceError: if a GPU has too little memory.
    """
    settings = settings or SamplingSettings()
    if len(prompts) != len(seeds) or not prompts:
        raise ValueError(
            f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed for each prompt"
        )
    model.warn_if_cut(prompts)

    batches = []
    with tqdm(total=len(prompts), desc="pictures", disable=not progress) as bar:
        for start in range(0, len(prompts), settings.batch_size):
            part = slice(start, start + settings.batch_size)
            if encoded is None:
                inputs = encode(model, prompts[part], settings)
            else:
                inputs = {name: tensor[part] for name, tensor in encoded.items()}
            batches.append(_batch(model, inputs, seeds[part], settings))
            bar.update(len(seeds[part]))

    return torch.cat(batches)


def _batch(
    model: Model, inputs: Encoded, seeds: Sequence[int], settings: SamplingSettings
) -> torch.Tensor:
    _, *latents = model.latent_shape
    height, width = (side * model.scale for side in latents)
    try:
        output = model.pipeline(
            **inputs,
            height=height,
            width=width,
            num_inference_steps=settings.inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        )
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the GPU has too little memory for {len(seeds)} pictures at a time: give a "
            "smaller --batch_size"
        ) from error

    return output.images.float().cpu()
