"""The contract of a text-to-image model, whatever its family."""

from __future__ import annotations

import abc
import contextlib
import random
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.models.normalization import RMSNorm
from torch import nn

from multierase.errors import suggest
from multierase.models import guidance
from multierase.models.conditioning import Conditioning
from multierase.models.guidance import Adjust
from multierase.models.scopes import FAMILIES, Family, Scope
from multierase.models.text import Span, Text
from multierase.prompts.lists import TaggedPrompt, read_prompts

KNOWN_PROMPTS, KINDS = "prompts.csv", "kinds"
NORMALISATIONS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, RMSNorm)

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
        text: its tokenizers and text towers.
        guided: whether its pipeline makes pictures by classifier-free guidance.
        resolution: pixels on a side, in training and in pictures; ``None`` for the base's own.
        patch: latents on a side that the denoiser takes as one.
    """

    family: str
    pipeline: Any
    name: str
    components: Mapping[str, nn.Module]
    streams: tuple[str, ...]
    text: Text
    guided = True
    resolution: int | None = None
    patch = 1

    def __init__(self, pipeline: Any, name: str, components: Mapping[str, nn.Module]):
        self.pipeline, self.name, self.components = pipeline, name, components
        for module in pipeline.components.values():
            if isinstance(module, nn.Module):
                module.eval().requires_grad_(False)
        pipeline.set_progress_bar_config(disable=True)

    # What each family says for itself.

    @property
    @abc.abstractmethod
    def parametrisation(self) -> str:
        """``epsilon`` if ``predict`` returns the noise, ``flow`` if it is noise minus picture."""

    @abc.abstractmethod
    def sampler(self, steps: int) -> Sampler:
        """Return a sampler of ``steps`` steps over the model's own noise schedule.

        Raises:
            ValueError: for a number of steps that the schedule does not have.
        """

    @abc.abstractmethod
    def pipeline_inputs(self, prompts: Sequence[str], guided: bool) -> dict[str, torch.Tensor]:
        """Encode prompts into what ``pipeline(**inputs)`` takes in their place, batch first."""

    @abc.abstractmethod
    def _arguments(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> dict[str, Any]:
        """Return all that the denoiser takes, by name."""

    @abc.abstractmethod
    def _text_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        """Return what the denoiser takes of the conditioning alone, by the same names."""

    def _prediction(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Turn the denoiser's output into the prediction."""
        return output

    def _encode(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """Return the streams' tensors of prompts, batch first."""
        inputs = self.pipeline_inputs(prompts, guided=False)

        return {"tokens": inputs["prompt_embeds"], "pooled": inputs["pooled_prompt_embeds"]}

    @property
    def _own_latent_shape(self) -> tuple[int, int]:
        """The channels of the latents, and the latents on a side, at the base's own resolution."""
        return self._denoiser.config.in_channels, self._denoiser.config.sample_size

    # What every family has in common.

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape ``(c, h, w)`` of one picture's latents."""
        channels, side = self._own_latent_shape
        if self.resolution is not None:
            side = self.resolution // self.scale

        return channels, side, side

    @property
    def scale(self) -> int:
        """Pixels on a side of a picture for each latent."""
        return self.pipeline.vae_scale_factor

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts as the model's own pipeline does; each prompt is encoded once."""
        return self.text(prompts)

    def tokens(self, prompts: Sequence[str], stream: str = "tokens") -> torch.Tensor:
        """Return ``(n, d)``, where the model is: all that the stream's readers see of prompts."""
        return self.text(prompts)[stream].flatten(0, -2)

    def fresh_tokens(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Do as ``tokens``, of every stream, and remember nothing: for thousands of prompts."""
        fresh = self.text.fresh(prompts)

        return {stream: fresh[stream].flatten(0, -2) for stream in self.streams}

    def own_tokens(self, prompts: Sequence[str], stream: str = "tokens") -> torch.Tensor:
        """Return ``(n, d)``, on the CPU: the prompts' own tokens, neither begin nor padding."""
        return self.text.own_tokens(prompts, stream).cpu()

    def spans(self, prompt: str, stream: str) -> list[Span]:
        """Return a prompt's rows of a stream by each tokenizer, on the CPU."""
        return [span._replace(rows=span.rows.cpu()) for span in self.text.spans(prompt, stream)]

    def token_count(self, prompt: str) -> int:
        """Return the number of a prompt's tokens by the first tokenizer, begin and end included."""
        return self.text.readers[0].count(prompt)

    def own_token_count(self, prompt: str) -> int:
        """Return the number of a prompt's tokens by the first tokenizer, without begin and end."""
        return self.text.readers[0].own_count(prompt)

    def words(self) -> list[str]:
        """Return the whole words of the model's first tokenizer, by frequency, in lower case."""
        return self.text.words

    def reads_whole(self, prompt: str) -> bool:
        """Return whether every tokenizer represents the whole prompt and cuts nothing off."""
        return self.text.reads_whole(prompt)

    def name_of_tokens(self, count: int, rng: random.Random, without: Collection[str] = ()) -> str:
        """Return a made-up name of so many tokens, as near as can be; see ``Text``."""
        return self.text.name_of_tokens(count, rng, without)

    def require_representable(self, prompt: str) -> None:
        """Raise ``ValueError`` if a tokenizer cannot represent a part of ``prompt``."""
        self.text.require_representable(prompt)

    def warn_if_cut(self, prompts: Sequence[str]) -> None:
        """Log a warning for each prompt that is longer than the model reads."""
        self.text.warn_if_cut(prompts)

    def predict(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        weights: Weights | None = None,
    ) -> torch.Tensor:
        """Predict, for latents ``x_t`` at time ``t``, in the model's ``parametrisation``.

        Args:
            x_t: ``(b, c, h, w)`` latents.
            t: ``(b,)`` in the sampler's timesteps.
            conditioning: of ``b`` prompts.
            weights: values that take the place of the model's own parameters for this call, by
                their names. Gradients flow to them.
        """
        x_t = x_t.to(self.dtype)
        arguments = self._arguments(x_t, t, conditioning.to(self.dtype))
        arguments["return_dict"] = False
        with self.holding(weights or {}):
            output = self._denoiser(**arguments)[0]

        return self._prediction(output, x_t, t)

    @contextlib.contextmanager
    def holding(self, weights: Weights) -> Iterator[None]:
        """Let other values take the place of the model's own parameters, for a block.

        A backward pass that computes activations again has to be inside it too.
        """
        places: list[tuple[dict[str, Any], str]] = []
        for name in weights:
            places.append((self.module_of(name)._parameters, name.rpartition(".")[2]))
        own = [parameters[leaf] for parameters, leaf in places]
        try:
            for (parameters, leaf), weight in zip(places, weights.values(), strict=True):
                parameters[leaf] = weight
            yield
        finally:
            for (parameters, leaf), before in zip(places, own, strict=True):
                parameters[leaf] = before

    def guide(self, concept: torch.Tensor, null: torch.Tensor, scale: float) -> torch.Tensor:
        """Combine two predictions by classifier-free guidance: ``ε(∅) + scale (ε(c) − ε(∅))``."""
        return null + scale * (concept - null)

    @contextlib.contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Keep few activations of a training step, and compute the rest again, for a block."""
        before = self._denoiser.is_gradient_checkpointing
        self._denoiser.enable_gradient_checkpointing()
        try:
            yield
        finally:
            if not before:
                self._denoiser.disable_gradient_checkpointing()

    def unconditional(self, prompt: str) -> contextlib.AbstractContextManager[None]:
        """Put ``prompt`` in the empty prompt's place in the pipeline's guidance, for a block."""
        self._require_guidance()

        return guidance.unconditional(self._denoiser, self._said(prompt))

    def adjusted(self, adjust: Adjust) -> contextlib.AbstractContextManager[None]:
        """Change the pipeline's conditional predictions for a block; see ``Adjust``."""
        self._require_guidance()

        return guidance.adjusted(self._denoiser, self.pipeline.scheduler, self._said, adjust)

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

    def scope_of_kind(self, scope: str | None) -> str:
        """Return what a kind's scope, which a family need not have, is in this one."""
        return self._naming.in_place_of.get(scope, scope) if scope else self.exact_scope

    @property
    def known_prompts(self) -> list[TaggedPrompt]:
        """Prompts that the model understands, from its folder's ``prompts.csv``, if it has one."""
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

    @property
    def _denoiser(self) -> Any:
        (denoiser,) = self.components.values()

        return denoiser

    def _said(self, prompt: str) -> dict[str, Any]:
        return self._text_arguments(self.encode([prompt]))

    def _require_guidance(self) -> None:
        if not self.guided:
            raise ValueError(
                f"{self.name} makes pictures without classifier-free guidance: what acts on the "
                "guidance has nothing to act on"
            )

    def _module_parameters(self) -> Iterator[nn.Parameter]:
        return self._denoiser.parameters()

    def _normalisations(self) -> set[str]:
        names: set[str] = set()
        for component, module in self.components.items():
            for path, layer in module.named_modules():
                if isinstance(layer, NORMALISATIONS):
                    own = layer.named_parameters(recurse=False)
                    names.update(f"{component}.{path}.{name}" for name, _ in own)

        return names


def named_inputs(encoded: Sequence[torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """Name what ``encode_prompt`` of Stable Diffusion's pipelines returns; those that are there."""
    names = ("prompt_embeds", "negative_prompt_embeds")
    pooled = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")

    # Stable Diffusion 1 and 2 have no pooled vectors.
    found = zip((*names, *pooled), encoded, strict=False)
    return {name: tensor for name, tensor in found if tensor is not None}
