"""Act on the classifier-free guidance of a pipeline that is running, through its denoiser's hooks.

A pipeline asks its denoiser once a step, for the empty prompt's half of a batch and the prompts'.
FLUX.2's asks twice, for the prompts and then for the empty prompt: functions ``…_in_turn``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

Said = Mapping[str, Any]
"""What a denoiser takes of one prompt, by name; in a mapping of its own, perhaps."""
Predict = Callable[[str], torch.Tensor]
Adjust = Callable[[torch.Tensor, torch.Tensor, Predict, bool], torch.Tensor]
"""Changes a guided prediction: ``(eps_null, eps_prompt, predict, first) -> eps_prompt``.

``predict(prompt)`` gives the model's prediction for another prompt on the same latents; ``first``
says that a new run of the pipeline has begun. Predictions are what the checkpoint itself predicts.
"""


def unconditional(denoiser: Any, said: Said) -> contextlib.AbstractContextManager[None]:
    """Put another prompt in the empty prompt's place, for a block."""

    def joined(other: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
        asked = both.chunk(2)[1]
        return torch.cat([other.to(asked.dtype).expand_as(asked), asked])

    def instead(denoiser, args, kwargs):
        return args, kwargs | _combined(joined, said, kwargs)

    return _hooked(denoiser.register_forward_pre_hook(instead, with_kwargs=True))


def adjusted(
    denoiser: Any, scheduler: Any, said: Callable[[str], Said], adjust: Adjust
) -> contextlib.AbstractContextManager[None]:
    """Change the prompts' predictions, for a block.

    Args:
        scheduler: the pipeline's.
        said: what the denoiser takes of a prompt.
    """
    run = None

    def guided(denoiser, args, kwargs, output):
        nonlocal run
        null, asked = output[0].chunk(2)
        # Every call of the pipeline makes timesteps of its own.
        first, run = run is not scheduler.timesteps, scheduler.timesteps

        def predict(prompt: str) -> torch.Tensor:
            latents, own = tree_map(_second_half, (args, kwargs))
            own |= _combined(_in_place_of, said(prompt), own)
            # Not the module's call, which would come here again.
            return denoiser.forward(*latents, **own)[0]

        return (torch.cat([null, adjust(null, asked, predict, first)]),)

    return _hooked(denoiser.register_forward_hook(guided, with_kwargs=True))


def unconditional_in_turn(
    pipeline: Any, denoiser: Any, said: Said
) -> contextlib.AbstractContextManager[None]:
    """Do as ``unconditional``, for a pipeline that asks for the empty prompt by itself."""
    is_first = _first_of_step(pipeline)

    def instead(denoiser, args, kwargs):
        if is_first():
            return args, kwargs
        return args, kwargs | _combined(_in_place_of, said, kwargs)

    return _hooked(denoiser.register_forward_pre_hook(instead, with_kwargs=True))


def adjusted_in_turn(
    pipeline: Any, denoiser: Any, said: Callable[[str], Said], adjust: Adjust
) -> contextlib.AbstractContextManager[None]:
    """Do as ``adjusted``, for a pipeline that asks for the empty prompt by itself.

    It does so after the prompts, so that ``eps_null`` takes an evaluation of its own.
    """
    is_first, run = _first_of_step(pipeline), None

    def guided(denoiser, args, kwargs, output):
        nonlocal run
        if not is_first() or not pipeline.do_classifier_free_guidance:
            return output
        timesteps = pipeline.scheduler.timesteps
        first, run = run is not timesteps, timesteps

        def predict(prompt: str) -> torch.Tensor:
            own = kwargs | _combined(_in_place_of, said(prompt), kwargs)
            return denoiser.forward(*args, **own)[0]

        return (adjust(predict(""), output[0], predict, first),)

    return _hooked(denoiser.register_forward_hook(guided, with_kwargs=True))


def _first_of_step(pipeline: Any) -> Callable[[], bool]:
    """Return what tells whether a call of the denoiser is the first one of a pipeline's step."""
    seen = None

    def is_first() -> bool:
        nonlocal seen
        # Every step makes a tensor of its own.
        before, seen = seen, pipeline.current_timestep
        return seen is not before

    return is_first


def _second_half(value: Any) -> Any:
    is_batch = isinstance(value, torch.Tensor) and value.ndim > 0

    return value.chunk(2)[1] if is_batch else value


def _in_place_of(other: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    return other.to(tensor.dtype).expand_as(tensor)


def _combined(function: Callable, said: Said, given: Mapping[str, Any]) -> dict[str, Any]:
    """Combine what is said with the tensors of the same names that are given."""
    found: dict[str, Any] = {}
    for name, value in said.items():
        if isinstance(value, Mapping):
            found[name] = {**given[name], **_combined(function, value, given[name])}
        else:
            found[name] = function(value, given[name])

    return found


@contextlib.contextmanager
def _hooked(handle: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
