"""What others do to erase concepts, on the same base and behind one interface, to stand beside our increments."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from multierase.base import Base, load_base
from multierase.concepts import Concept
from multierase.generate import SamplingSettings
from multierase.increments import reads_text
from multierase.text import TextEncoder

Method = Literal["increments", "negative-prompt", "sld-weak", "sld-medium", "sld-strong", "sld-max", "uce", "peer"]


class Eraser(Protocol):
    """A base on which concepts can be erased: a ``Composer``, or a baseline."""

    def erased(self, *concepts: str) -> contextlib.AbstractContextManager:
        """These concepts off for the length of a ``with`` block, then the base again; none off is the base itself."""


def baseline(
    method: Method, base: Base, sampling: SamplingSettings, kinds: Iterable[Sequence[str]], peer: str | None
) -> Eraser:
    """The baseline of this name.

    Args:
        kinds: what may be erased or is to be kept, the classes of each kind of label; for ``uce``.
        peer: for ``peer``, as ``Peer`` takes it.

    Raises:
        ValueError: where the method cannot work with these settings.
    """
    if method == "uce":
        return UCE(base, kinds)
    if method == "peer":
        return Peer(base, peer)
    if sampling.guidance_scale <= 1:
        raise ValueError(
            f"{method} acts on classifier-free guidance, and guidance_scale {sampling.guidance_scale:g} is none: give "
            "more than 1"
        )
    return NegativePrompt(base) if method == "negative-prompt" else SafeLatentDiffusion(base, SLD[method], sampling)


class NegativePrompt:
    """The erased concepts' names, in the place of the empty prompt that guidance leads away from."""

    def __init__(self, base: Base):
        self.base = base

    @contextlib.contextmanager
    def erased(self, *concepts: str) -> Iterator[None]:
        if not concepts:
            yield
            return
        negative = self.base.text([", ".join(concepts)])

        def instead(unet, args, kwargs):
            _, asked = kwargs["encoder_hidden_states"].chunk(2)
            text = torch.cat([negative.to(asked.dtype).expand_as(asked), asked])
            return args, {**kwargs, "encoder_hidden_states": text}

        handle = self.base.unet.register_forward_pre_hook(instead, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


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
SLD_STEPS = 50


class SafeLatentDiffusion:
    """Safe Latent Diffusion (arXiv 2211.05105, eq. 3 to 8), with the erased concepts' names as the safety concept.

    ``ε̄ = ε_∅ + s_g (ε_p − ε_∅ − γ)`` with ``γ_t = μ (ε_S − ε_∅) + s_m ν_t``, ``ν_{t+1} = β_m ν_t + (1 − β_m) γ_t``, and
    ``μ = min(1, s_S |ε_p − ε_S|)`` where ``ε_p − ε_S < λ``, else 0: the paper prints a maximum, its code takes the
    minimum. During the warm-up ``γ`` feeds ``ν`` and nothing else. What the checkpoint predicts stands for ``ε``, as in
    the authors' code. The pipeline subtracts ``ε_∅`` and scales by ``s_g`` itself: here ``ε_p`` becomes ``ε_p − γ``.
    """

    def __init__(self, base: Base, guidance: SafetyGuidance, sampling: SamplingSettings):
        self.base, self.guidance = base, guidance
        self.warmup = round(guidance.warmup * sampling.inference_steps / SLD_STEPS)

    @contextlib.contextmanager
    def erased(self, *concepts: str) -> Iterator[None]:
        if not concepts:
            yield
            return
        safety, given, scheduler = self.base.text([", ".join(concepts)]), self.guidance, self.base.pipeline.scheduler
        run, step, nu = None, 0, None

        def guided(unet, args, kwargs, output):
            nonlocal run, step, nu
            eps_empty, eps_prompt = output[0].chunk(2)
            if run is not scheduler.timesteps:  # every call of the pipeline makes its own
                run, step, nu = scheduler.timesteps, 0, torch.zeros_like(eps_prompt)
            text = safety.to(eps_prompt.dtype).expand(len(eps_prompt), -1, -1)
            # Not the module's call, which would come here again.
            latents, time = args[0].chunk(2)[1], args[1]
            (eps_safety,) = unet.forward(latents, time, **{**kwargs, "encoder_hidden_states": text})
            difference = eps_prompt - eps_safety
            mu = (given.scale * difference.abs()).clamp(max=1).where(difference < given.threshold, 0)
            gamma = mu * (eps_safety - eps_empty) + given.momentum * nu
            nu = given.decay * nu + (1 - given.decay) * gamma
            step += 1
            return (torch.cat([eps_empty, eps_prompt - gamma if step > self.warmup else eps_prompt]),)

        handle = self.base.unet.register_forward_hook(guided, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def aligned(text: TextEncoder, prompt: str, context: str) -> tuple[torch.Tensor, torch.Tensor]:
    """``(n, d)`` tokens of a sentence and of its context, from the last word on, aligned at the end."""
    old, new = (max(len(text.tokens(p)) - 2, 0) for p in (prompt, context))
    count = text.max_length - max(old, new)
    return text([prompt])[0, old : old + count], text([context])[0, new : new + count]


class UCE:
    """Unified Concept Editing (arXiv 2308.14761, eq. 7) of keys and values, solved for each set of erased concepts.

    ``W* = (λW + Σ W g cᵀ + Σ W p pᵀ)(λ + Σ c cᵀ + Σ p pᵀ)⁻¹`` with ``c`` the tokens of the erased sentences from the
    last word on, ``g`` those of the sentences without the concept, aligned at the end as in the authors' first code,
    and ``p`` the same tokens of the kept concepts' sentences; ``λ = 0.5``, as in their present code. The sentences are
    those that the base is known to be asked.

    Args:
        kinds: the concepts of each kind; of a kind of which one is erased, the others are kept.
    """

    def __init__(self, base: Base, kinds: Iterable[Sequence[str]]):
        self.base, self.kinds = base, [tuple(kind) for kind in kinds]
        self.parameters = {name: p for name, p in base.unet.named_parameters() if reads_text(name)}
        self._pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """``(n, d)`` tokens of a concept's sentences, and of those without it."""
        if name not in self._pairs:
            concept = Concept(name).with_sentences(self.base.known_prompts)
            sentences = zip(concept.prompts, concept.contexts, strict=True)
            old, new = zip(*(aligned(self.base.text, *pair) for pair in sentences), strict=True)
            self._pairs[name] = torch.cat(old).double().cpu(), torch.cat(new).double().cpu()
        return self._pairs[name]

    @contextlib.contextmanager
    def erased(self, *concepts: str) -> Iterator[None]:
        if not concepts:
            yield
            return
        kept = (name for kind in self.kinds if set(kind) & set(concepts) for name in kind)
        concerned = dict.fromkeys([*kept, *concepts])
        edits = [self._pair(name) if name in concepts else (self._pair(name)[0],) * 2 for name in concerned]
        old, new = (torch.cat(parts) for parts in zip(*edits, strict=True))
        ridge = 0.5 * torch.eye(old.shape[1], dtype=torch.float64)
        transfer = torch.linalg.solve(ridge + old.T @ old, ridge + old.T @ new).T  # W* = W · transfer
        edited = {name: p.detach().cpu().double() @ transfer for name, p in self.parameters.items()}
        with _replaced(self.parameters, edited):
            yield


class Peer:
    """A peer's model, of the one set of concepts that it was made for.

    Args:
        path: a diffusers pipeline's folder, of which U-Net, text encoder and VAE are taken, or the U-Net's weights,
            all or those that the peer changed, in a ``.safetensors`` or a pickled file, which is read as weights only.

    Raises:
        FileNotFoundError: where there is neither.
        ValueError: for weights that are not this base's in name and shape, or not finite.
    """

    def __init__(self, base: Base, path: str):
        if Path(path).is_dir():
            theirs = load_base(str(Path(path).resolve()), device="cpu", dtype=base.dtype)
            self.parameters, self.weights = _state(base), _state(theirs)
            missing = sorted(self.parameters.keys() - self.weights.keys())
        else:
            self.parameters, self.weights, missing = base.unet.state_dict(), _read(Path(path)), []
        wrong = [n for n, w in self.weights.items() if n not in self.parameters or w.shape != self.parameters[n].shape]
        if wrong or missing or not self.weights:
            raise ValueError(
                f"{path} is no model of base {base.name!r}: {len(wrong)} of {len(self.weights)} weights have another "
                f"name or shape, {len(missing)} are missing, first {[*wrong, *missing][:1]}; give a pipeline folder or "
                "U-Net weights in diffusers' names"
            )
        broken = [name for name, weight in self.weights.items() if not torch.isfinite(weight).all()]
        if broken:
            raise ValueError(f"{path} holds NaN or infinity, first in {broken[0]!r}")

    @contextlib.contextmanager
    def erased(self, *concepts: str) -> Iterator[None]:
        with _replaced(self.parameters, self.weights) if concepts else contextlib.nullcontext():
            yield


def peer_digest(path: str | Path) -> str:
    """SHA-256 of a peer's file, or of every file of a folder with its name. ``FileNotFoundError`` without either."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no peer's model at {path}: give a pipeline folder, or a file of U-Net weights")
    digest = hashlib.sha256()
    for file in sorted(p for p in [Path(path), *Path(path).rglob("*")] if p.is_file()):
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _state(base: Base) -> dict[str, torch.Tensor]:
    modules = {"unet": base.unet, "text_encoder": base.pipeline.text_encoder, "vae": base.vae}
    return {
        f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()
    }


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a file by the U-Net's names: nested by module, and with ``unet.`` before them, as some peers have."""
    try:
        read = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} holds no weights that can be read safely: {error}") from error
    return {name.removeprefix("unet."): tensor for name, tensor in _flat("", read, path)}


def _flat(prefix: str, read: object, path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(read, torch.Tensor):
        yield prefix, read
    elif isinstance(read, Mapping):
        for name, inner in read.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner, path)
    else:
        raise ValueError(f"{path}: {prefix or 'it'} is a {type(read).__name__}, not a weight")


@contextlib.contextmanager
def _replaced(parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Other values in some parameters' place for the length of the block."""
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
