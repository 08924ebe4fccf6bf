"""Ways to erase concepts from a model for a while, ours and others', behind one interface."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from multierase.errors import UsageError, WeightsFileError
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.suites import Suite
from multierase.evaluation.weights import read_weights
from multierase.files import digest_bytes, digest_file, plain
from multierase.methods import uce
from multierase.models.guidance import Predict
from multierase.models.loading import load_base
from multierase.models.model import Model
from multierase.prompts.concepts import Concept
from multierase.sampling import SamplingSettings

SLD_STEPS = 50  # of the paper, in which its warm-ups are given
NOT_DRAWING = ("safety_checker",)  # parts of a pipeline that no picture depends on


class Eraser(Protocol):
    """A model on which concepts can be erased: a ``Composer``, or another method."""

    def erasing(self, *concepts: str) -> contextlib.AbstractContextManager:
        """Erase these concepts for a ``with`` block; with none, the model is the base itself."""


def other_eraser(experiment: Experiment, model: Model, suite: Suite) -> Eraser:
    """Return the eraser of any method but our increments.

    Raises:
        UsageError: if the method cannot work with these settings.
        FileNotFoundError, WeightsFileError: for a peer's files that are not there, or not its
            base's.
    """
    method, sampling = experiment.method, suite.sampling
    if method == "uce":
        return UCE(model, suite.classes().values())
    if method == "peer":
        return Peer(model, experiment.peer)

    if sampling.guidance_scale <= 1:
        raise UsageError(
            f"{method} acts on classifier-free guidance, and guidance_scale "
            f"{sampling.guidance_scale:g} is none: give more than 1"
        )
    if method == "negative-prompt":
        return NegativePrompt(model)

    return SafeLatentDiffusion(model, SLD[method], sampling)


class NegativePrompt:
    """Puts the erased concepts' names in the place of the empty prompt, which guidance leaves."""

    def __init__(self, model: Model):
        self.model = model

    @contextlib.contextmanager
    def erasing(self, *concepts: str) -> Iterator[None]:
        """Erase concepts for a ``with`` block."""
        if not concepts:
            yield
            return

        with self.model.unconditional(", ".join(concepts)):
            yield


@dataclass(frozen=True)
class SafetyGuidance:
    """Hyper-parameters of Safe Latent Diffusion, in the paper's symbols.

    Args:
        scale: ``s_S``.
        warmup: ``δ``, in steps of the paper's 50; the same share of a shorter run.
        threshold: ``λ``.
        momentum: ``s_m``.
        decay: ``β_m``.
    """

    scale: float
    warmup: float
    threshold: float
    momentum: float
    decay: float


SLD = {  # the paper's; for weak, diffusers' SafetyConfig has a scale of 20
    "sld-weak": SafetyGuidance(200, 15, 0.0, 0.0, 0.0),
    "sld-medium": SafetyGuidance(1000, 10, 0.01, 0.3, 0.4),
    "sld-strong": SafetyGuidance(2000, 7, 0.025, 0.5, 0.7),
    "sld-max": SafetyGuidance(5000, 0, 1.0, 0.5, 0.7),
}


class SafeLatentDiffusion:
    """Safe Latent Diffusion (arXiv 2211.05105, eq. 3 to 8).

    The erased concepts' names are the safety concept.

    ``ε̄ = ε_∅ + s_g (ε_p − ε_∅ − γ)`` with ``γ_t = μ (ε_S − ε_∅) + s_m ν_t``,
    ``ν_{t+1} = β_m ν_t + (1 − β_m) γ_t``, and ``μ = min(1, s_S |ε_p − ε_S|)`` where
    ``ε_p − ε_S < λ``, else 0: the paper prints a maximum, its code takes the minimum. During the
    warm-up ``γ`` feeds ``ν`` and nothing else. What the checkpoint itself predicts stands for
    ``ε``, as in the authors' code. The pipeline subtracts ``ε_∅`` and scales by ``s_g`` itself:
    here ``ε_p`` becomes ``ε_p − γ``.
    """

    def __init__(self, model: Model, guidance: SafetyGuidance, sampling: SamplingSettings):
        self.model, self.guidance = model, guidance
        self.warmup = round(guidance.warmup * sampling.inference_steps / SLD_STEPS)

    @contextlib.contextmanager
    def erasing(self, *concepts: str) -> Iterator[None]:
        """Erase concepts for a ``with`` block."""
        if not concepts:
            yield
            return

        with self.model.adjusted(_SafetyRun(", ".join(concepts), self.guidance, self.warmup)):
            yield


class _SafetyRun:
    """The state of Safe Latent Diffusion in the course of the pipeline's steps."""

    def __init__(self, safety: str, guidance: SafetyGuidance, warmup: int):
        self.safety, self.guidance, self.warmup = safety, guidance, warmup
        self.step, self.nu = 0, None

    def __call__(
        self, eps_null: torch.Tensor, eps_prompt: torch.Tensor, predict: Predict, first: bool
    ) -> torch.Tensor:
        # Momentum is of one run; an evaluation makes many, a batch each.
        if first:
            self.step, self.nu = 0, torch.zeros_like(eps_prompt)
        given = self.guidance
        eps_safety = predict(self.safety)

        difference = eps_prompt - eps_safety
        mu = (given.scale * difference.abs()).clamp(max=1).where(difference < given.threshold, 0)
        gamma = mu * (eps_safety - eps_null) + given.momentum * self.nu
        self.nu = given.decay * self.nu + (1 - given.decay) * gamma
        self.step += 1

        return eps_prompt - gamma if self.step > self.warmup else eps_prompt


class UCE:
    """Unified Concept Editing, solved for each set of erased concepts; see ``methods/uce.py``.

    Args:
        kinds: the concepts of each kind; if one of a kind is erased, the kind's others are kept.
    """

    def __init__(self, model: Model, kinds: Iterable[Sequence[str]]):
        self.model, self.kinds = model, [tuple(kind) for kind in kinds]
        self._pairs: dict[str, uce.Pair] = {}  # tokens of concepts that were asked for before

    @contextlib.contextmanager
    def erasing(self, *concepts: str) -> Iterator[None]:
        """Erase concepts for a ``with`` block."""
        if not concepts:
            yield
            return

        concerned = self._concepts(self.concerned(concepts))
        edited = uce.edit(self.model, concerned, concepts, self._pairs)
        with replaced(self.model.parameters(), edited):
            yield

    def concerned(self, concepts: Sequence[str]) -> list[str]:
        """Return what is erased or kept if these concepts are erased, kind after kind."""
        names: list[str] = []
        for kind in self.kinds:
            if set(kind) & set(concepts):
                names += kind

        return list(dict.fromkeys([*names, *concepts]))

    def _concepts(self, names: Sequence[str]) -> list[Concept]:
        known = self.model.known_prompts

        return [Concept(name).with_sentences(known) for name in names]


class Peer:
    """A peer's model, of the one set of concepts that it was made for.

    Args:
        path: a diffusers pipeline's folder, of which every part that draws is taken; or the
            denoiser's weights, all or those that the peer changed, in a ``.safetensors`` or a
            pickled file, which is read as weights only.

    Raises:
        FileNotFoundError: if there is neither.
        WeightsFileError: for weights that are not this base's in name and shape, or not finite.
    """

    def __init__(self, model: Model, path: str | Path):
        if Path(path).is_dir():
            theirs = load_base(str(Path(path).resolve()), device="cpu", dtype=model.dtype)
            self.parameters, self.weights = _drawing(model), _drawing(theirs)
            missing = sorted(self.parameters.keys() - self.weights.keys())
        else:
            self.parameters = _states(model.components)
            self.weights, missing = _denoiser_weights(Path(path), model), []

        self._require_fitting(path, model, missing)

    @contextlib.contextmanager
    def erasing(self, *concepts: str) -> Iterator[None]:
        """Put the peer's weights in place for a ``with`` block, whatever the concepts are."""
        with replaced(self.parameters, self.weights) if concepts else contextlib.nullcontext():
            yield

    def _require_fitting(self, path: str | Path, model: Model, missing: Sequence[str]) -> None:
        wrong = []
        for name, weight in self.weights.items():
            own = self.parameters.get(name)
            if own is None or own.shape != weight.shape:
                wrong.append(name)

        if wrong or missing or not self.weights:
            first = [plain(name) for name in [*wrong, *missing][:1]]
            raise WeightsFileError(
                f"{path} is no model of base {model.name!r}: {len(wrong)} of {len(self.weights)} "
                f"weights have another name or shape, {len(missing)} are missing, first {first}; "
                "give a pipeline folder or the denoiser's weights in diffusers' names"
            )

        for name, weight in self.weights.items():
            if weight.is_floating_point() and not torch.isfinite(weight).all():
                raise WeightsFileError(f"{path} holds NaN or infinity, first in {plain(name)!r}")


def peer_digest(path: str | Path) -> str:
    """Return the digest of a peer's file, or of every file of its folder with its name.

    Raises:
        FileNotFoundError: if there is neither.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no peer's model at {path}: give a pipeline folder, or a file of denoiser weights"
        )
    if path.is_file():
        return digest_file(path)

    # With the names, so that two files that change places are another model.
    parts = []
    for file in sorted(found for found in path.rglob("*") if found.is_file()):
        parts += [str(file.relative_to(path)), "\0", digest_file(file)]

    return digest_bytes(*parts)


def _drawing(model: Model) -> dict[str, torch.Tensor]:
    """Return all weights on which a pipeline's pictures depend."""
    parts = {}
    for name, part in model.pipeline.components.items():
        if isinstance(part, nn.Module) and name not in NOT_DRAWING:
            parts[name] = part

    return _states(parts)


def _states(modules: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    found = {}
    for part, module in modules.items():
        for name, tensor in module.state_dict().items():
            found[f"{part}.{name}"] = tensor

    return found


def _denoiser_weights(path: Path, model: Model) -> dict[str, torch.Tensor]:
    """Read a file's weights, by the model's names.

    Some peers nest them by module, some put the component's name before them; a name without one is
    the denoiser's.
    """
    denoiser = next(iter(model.components))
    prefixes = tuple(f"{component}." for component in model.components)

    weights = {}
    for name, tensor in _flat("", read_weights(path), path):
        weights[name if name.startswith(prefixes) else f"{denoiser}.{name}"] = tensor

    return weights


def _flat(prefix: str, read: object, path: Path, depth: int = 0) -> Iterator:
    if isinstance(read, torch.Tensor):
        yield prefix, read
    elif isinstance(read, Mapping) and depth < 100:
        for name, inner in read.items():
            whole = f"{prefix}.{name}" if prefix else str(name)
            yield from _flat(whole, inner, path, depth + 1)
    else:
        raise WeightsFileError(
            f"{path}: {plain(prefix) or 'it'} is a {type(read).__name__}, not a weight"
        )


@contextlib.contextmanager
def replaced(
    parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Put other values in some parameters' place for a ``with`` block."""
    # Copies: subtracting a change again would not give the same bits.
    before = {name: parameters[name].detach().clone() for name in values}
    try:
        _write(parameters, values)
        yield
    finally:
        _write(parameters, before)


@torch.no_grad()
def _write(parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
