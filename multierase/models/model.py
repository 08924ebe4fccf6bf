"""The contract of a text-to-image model, whatever its family."""

from __future__ import annotations

import abc
import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multierase.errors import suggest
from multierase.models.conditioning import Conditioning
from multierase.models.scopes import FAMILIES, Family, Scope
from multierase.prompts.lists import TaggedPrompt, read_prompts

KNOWN_PROMPTS, KINDS = "prompts.csv", "kinds"
NORMALISATIONS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

Weights = Mapping[str, torch.Tensor]


class Sampler(Protocol):
    """A deterministic sampler, pure in the step's index.

    ``timesteps`` ``(n,)``: the model's own unit of time, from noise to picture.
    """

    timesteps: torch.Tensor

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the first latents for ``(b, c, h, w)`` standard normal noise."""

    def step(self, prediction: torch.Tensor, index: int, x_t: torch.Tensor) -> torch.Tensor:
        """Return the latents after step ``index``, given the prediction for ``x_t``."""


class Model(abc.ABC):
    """A frozen text-to-image model, loaded from any source.

    There is one denoiser. Other weights are handed to ``predict`` for one call, or written into it
    by a composer.

    Attributes:
        pipeline: the ordinary diffusers pipeline.
        name: what it was loaded from.
        components: by name the modules whose parameters an erasure may change. Parameter names
            carry their component: ``unet.…``.
        streams: names of the conditioning's streams that parameters may read alone.
    """

    family: str
    pipeline: Any
    name: str
    components: Mapping[str, nn.Module]
    streams: tuple[str, ...]

    # What each family says for itself.

    @property
    @abc.abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The shape ``(c, h, w)`` of one picture's latents."""

    @abc.abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts as the model's own pipeline does; each prompt is encoded once."""

    @abc.abstractmethod
    def tokens(self, prompts: Sequence[str], stream: str) -> torch.Tensor:
        """Return ``(n, d)``, on the CPU: all that the stream's readers see of these prompts."""

    @abc.abstractmethod
    def fresh_tokens(self, prompts: Sequence[str], stream: str) -> torch.Tensor:
        """Do as ``tokens``, and remember nothing: for thousands of prompts that are read once."""

    @abc.abstractmethod
    def own_tokens(self, prompts: Sequence[str], stream: str) -> torch.Tensor:
        """Return ``(n, d)``, on the CPU: the prompts' own tokens, neither begin nor padding."""

    @abc.abstractmethod
    def token_count(self, prompt: str, stream: str) -> int:
        """Return the number of a prompt's tokens, begin and end included, padding not."""

    @abc.abstractmethod
    def words(self) -> list[str]:
        """Return the whole words of the model's own tokenizer, by frequency, in lower case."""

    @abc.abstractmethod
    def reads_whole(self, prompt: str) -> bool:
        """Return whether every tokenizer represents the whole prompt and cuts nothing off."""

    @abc.abstractmethod
    def name_of_tokens(self, count: int, generator: random.Random) -> str:
        """Return a made-up name of so many tokens of the first tokenizer, as near as can be."""

    @abc.abstractmethod
    def require_representable(self, prompt: str) -> None:
        """Raise ``ValueError`` if the tokenizer cannot represent a part of ``prompt``."""

    @abc.abstractmethod
    def warn_if_cut(self, prompts: Sequence[str]) -> None:
        """Log a warning for each prompt that is longer than the model reads."""

    @abc.abstractmethod
    def predict(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        weights: Weights | None = None,
    ) -> torch.Tensor:
        """Predict the noise ``ε(x_t, c, t)``.

        Args:
            x_t: ``(b, c, h, w)`` latents.
            t: ``(b,)`` in the sampler's timesteps.
            conditioning: of ``b`` prompts.
            weights: values that take the place of the model's own parameters for this call, by
                their names. Gradients flow to them.
        """

    @abc.abstractmethod
    def sampler(self, steps: int) -> Sampler:
        """Return a sampler of ``steps`` steps over the model's own noise schedule.

        Raises:
            ValueError: for a number of steps that the schedule does not have.
        """

    @abc.abstractmethod
    def guide(
        self, eps_concept: torch.Tensor, eps_null: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Combine two predictions by classifier-free guidance."""

    @abc.abstractmethod
    def pipeline_inputs(self, prompts: Sequence[str], guided: bool) -> dict[str, torch.Tensor]:
        """Encode prompts into what ``pipeline(**inputs)`` takes in their place, batch first."""

    @abc.abstractmethod
    def checkpointed(self) -> contextlib.AbstractContextManager[None]:
        """Keep few activations of a training step, and compute the rest again, for a block."""

    @abc.abstractmethod
    def unconditional(self, prompt: str) -> contextlib.AbstractContextManager[None]:
        """Put ``prompt`` in the empty prompt's place in the pipeline's guidance, for a block."""

    @abc.abstractmethod
    def adjusted(self, adjust: Adjust) -> contextlib.AbstractContextManager[None]:
        """Change the pipeline's conditional predictions for a block; see ``Adjust``."""

    # What every family has in common.

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self._module_parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the denoiser's weights."""
        return next(self._module_parameters()).dtype

    @property
    def scopes(self) -> Mapping[str, Scope]:
        """By name the published choices of parameters that an erasure may change."""
        return self._naming.scopes

    @property
    def readers(self) -> dict[str, str]:
        """The parameters whose only input is one stream of the conditioning, with the stream."""
        return self._naming.readers(self.parameters())

    @property
    def exact_scope(self) -> str:
        """The scope in which every parameter reads the text alone."""
        return self._naming.exact_scope

    @property
    def known_prompts(self) -> list[TaggedPrompt]:
        """Prompts that the model is known to understand: its folder's ``prompts.csv``, if any."""
        # Diffusers notes where a pipeline was loaded from; one made in memory has no folder.
        path = Path(self.pipeline.config.get("_name_or_path", "")) / KNOWN_PROMPTS

        return read_prompts(path) if path.is_file() else []

    @property
    def kinds(self) -> Path | None:
        """The folder of the kinds that the base brings (see ``prompts/kind.py``), if it does."""
        path = Path(self.pipeline.config.get("_name_or_path", "")) / KINDS

        return path if path.is_dir() else None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return every parameter that may be changed, by its name; asked anew at each call."""
        return {
            f"{component}.{name}": parameter
            for component, module in self.components.items()
            for name, parameter in module.named_parameters()
        }

    def module_of(self, parameter: str) -> nn.Module:
        """Return the layer that a parameter belongs to."""
        component, _, name = parameter.partition(".")

        return self.components[component].get_submodule(name.rpartition(".")[0])

    def scope_parameters(self, scope: str) -> list[str]:
        """Return the names of the parameters in ``scope``, sorted.

        Raises:
            ValueError: for an unknown scope, or one that selects nothing in this model.
        """
        if scope not in self.scopes:
            raise ValueError(
                f"unknown scope {scope!r}{suggest(scope, self.scopes)}; scopes: "
                f"{sorted(self.scopes)}"
            )
        selects, normalisations = self.scopes[scope].selects, self._normalisations()
        chosen = [name for name in self.parameters() if selects(name)]
        names = sorted(name for name in chosen if name not in normalisations)

        if not names:
            raise ValueError(
                f"scope {scope!r} selects no parameter of this model, so there would be nothing to "
                "train"
            )

        return names

    def reset_peak_memory(self) -> None:
        """Start the measurement of ``peak_memory`` anew; on a GPU only."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory(self) -> int:
        """Return the most memory held, in MiB: the GPU's, or the whole process's on the CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) // 2**20

        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // (2**20 if sys.platform == "darwin" else 2**10)

    @property
    def _naming(self) -> Family:
        return FAMILIES[self.family]

    def _module_parameters(self) -> Iterator[nn.Parameter]:
        return next(iter(self.components.values())).parameters()

    def _normalisations(self) -> set[str]:
        names: set[str] = set()
        for component, module in self.components.items():
            for path, layer in module.named_modules():
                if isinstance(layer, NORMALISATIONS):
                    own = layer.named_parameters(recurse=False)
                    names.update(f"{component}.{path}.{name}" for name, _ in own)

        return names


Predict = Callable[[str], torch.Tensor]
Adjust = Callable[[torch.Tensor, torch.Tensor, Predict, bool], torch.Tensor]
"""Changes a guided prediction: ``(eps_null, eps_prompt, predict, first) -> eps_prompt``.

``predict(prompt)`` gives the model's prediction for another prompt on the same latents; ``first``
says that a new run of the pipeline has begun. Predictions are what the checkpoint itself predicts.
"""


@contextlib.contextmanager
def hooked(handle: RemovableHandle) -> Iterator[None]:
    """Remove a module's hook at the end of the block."""
    try:
        yield
    finally:
        handle.remove()
