"""Files in exactly the layouts in which other tools write them, from known numbers."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from multierase import Model
from multierase.interop.original import original_keys, whole_file

Deltas = Mapping[str, torch.Tensor]
ORIGINAL = "model.diffusion_model."


def numbers(*shape: int, seed: int = 0, scale: float = 0.01) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_deltas(model: Model, scope: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random numbers for every parameter of a scope."""
    here = model.parameters()
    names = model.scope_parameters(scope)

    return {name: numbers(*here[name].shape, seed=seed + i) for i, name in enumerate(names)}


def bare(name: str) -> str:
    """Return a parameter's name as diffusers has it, without its component."""
    return name.partition(".")[2]


def trained(model: Model, deltas: Deltas, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """Return ``cast(cast(W0) + Δ)``: what a training in this precision would have stored."""
    here = model.parameters()
    found = {}
    for name, delta in deltas.items():
        found[name] = (here[name].detach().to(dtype).float() + delta).to(dtype)

    return found


def added(model: Model, weights: Deltas) -> dict[str, torch.Tensor]:
    """Return what such weights differ by from the base in their own precision."""
    here = model.parameters()
    found = {}
    for name, weight in weights.items():
        found[name] = weight.float() - here[name].detach().to(weight.dtype).float()

    return found


def esd(weights: Deltas, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write ESD's file of today; UCE's has the same layout."""
    save_file({bare(name): weight for name, weight in weights.items()}, path, metadata)
    return path


HEADER = {
    "format": "erasing-esd-v2",
    "family": "sd",
    "component": "unet",
    "base_model_id": "tiny",
    "train_method": "esd-x",
    "erase_concept": "Noto",
    "erase_from": "Noto",
    "num_inference_steps": "50",
    "guidance_scale": "3.0",
    "negative_guidance": "2.0",
    "batch_size": "1",
}


def pickled(weights: Deltas, path: Path) -> Path:
    """Write a flat dict, as SPEED and CUIG do."""
    torch.save({bare(name): weight for name, weight in weights.items()}, path)
    return path


def esd_by_layer(weights: Deltas, path: Path) -> Path:
    """Write the pickle of ESD's other implementation: by layer a state dict of its own."""
    layers: dict[str, OrderedDict] = {}
    for name, weight in weights.items():
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, OrderedDict())[leaf] = weight
    torch.save(layers, path)
    return path


def state_dict(model: Model, weights: Deltas) -> dict[str, torch.Tensor]:
    """Return the whole denoiser's state dict, with some weights changed."""
    ((component, denoiser),) = model.components.items()
    state = {name: value.clone() for name, value in denoiser.state_dict().items()}

    return state | {name.removeprefix(f"{component}."): w for name, w in weights.items()}


def checkpoint(model: Model, weights: Deltas) -> dict[str, torch.Tensor]:
    """Return a whole checkpoint under original names, with what a training leaves in it."""
    ((component, denoiser),) = model.components.items()
    state = {name: value.clone() for name, value in whole_file(model.pipeline).items()}
    for theirs, ours in original_keys(denoiser).items():
        changed = weights.get(f"{component}.{ours[0]}")
        if changed is not None:
            state[ORIGINAL + theirs] = changed
    state |= {"betas": torch.ones(10), "alphas_cumprod": torch.ones(10)}
    state["model_ema.diffusion_modelout2weight"] = torch.ones(3)
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(4)

    return state


def original_attention(model: Model, weights: Deltas) -> dict[str, torch.Tensor]:
    """Return some weights under original names."""
    ((component, denoiser),) = model.components.items()
    by_own = {ours[0]: theirs for theirs, ours in original_keys(denoiser).items()}

    return {
        ORIGINAL + by_own[name.removeprefix(f"{component}.")]: weight
        for name, weight in weights.items()
    }


def factors(model: Model, names: list[str], rank: int, seed: int = 0):
    """Return random ``up`` and ``down`` of layers by parameter, in the layers' own shapes."""
    here, found = model.parameters(), {}
    for place, name in enumerate(names):
        out, size, *pixels = here[name].shape
        up = numbers(out, rank, *[1] * len(pixels), seed=seed + 2 * place, scale=0.1)
        down = numbers(rank, size, *pixels, seed=seed + 2 * place + 1, scale=0.1)
        found[name] = up, down

    return found


def products(found, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Return ``scale · up @ down`` in the layers' own shapes."""
    deltas = {}
    for name, (up, down) in found.items():
        flat = scale * up.float().flatten(1) @ down.float().flatten(1)
        deltas[name] = flat.reshape(up.shape[0], *down.shape[1:])

    return deltas


def kohya(
    found,
    path: Path,
    *,
    alpha: float | None = None,
    metadata: Mapping[str, str] | None = None,
    name_of=None,
    more: Deltas | None = None,
) -> Path:
    """Write ``lora_unet_`` names: SPM's with a header, LECO's without one."""
    tensors = dict(more or {})
    for name, (up, down) in found.items():
        layer = (name_of or bare)(name).removesuffix(".weight").replace(".", "_")
        tensors[f"lora_unet_{layer}.lora_up.weight"] = up
        tensors[f"lora_unet_{layer}.lora_down.weight"] = down
        if alpha is not None:
            tensors[f"lora_unet_{layer}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata)
    return path


def spm_layers(model: Model) -> list[str]:
    """Return the twelve layers of each transformer block that SPM has factors for."""
    ends = ("proj_in.weight", "proj_out.weight", "ff.net.0.proj.weight", "ff.net.2.weight")
    attention = tuple(f"to_{part}.weight" for part in ("q", "k", "v", "out.0"))

    return [
        n for n in model.parameters() if ".attentions." in n and n.endswith((*ends, *attention))
    ]


def mace(found, path: Path) -> Path:
    """Write MACE's file: diffusers 0.22's attention processors; what it does not train is zero."""
    tensors = {}
    for name, (up, down) in found.items():
        block, _, layer = bare(name).removesuffix(".weight").rpartition(".to_")
        moved = ".attn2" in block and layer in ("k", "v")
        key = f"{block}.processor.to_{layer.removesuffix('.0')}_lora"
        tensors[f"{key}.down.weight"] = down
        tensors[f"{key}.up.weight"] = up if moved else torch.zeros_like(up)
    save_file(tensors, path, {"format": "pt"})
    return path


def peft_folder(found, folder: Path, **config) -> Path:
    """Write PEFT's folder."""
    folder.mkdir()
    tensors = {}
    for name, (up, down) in found.items():
        layer = f"base_model.model.{bare(name).removesuffix('.weight')}"
        tensors[f"{layer}.lora_B.weight"] = up
        tensors[f"{layer}.lora_A.weight"] = down
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return folder


def diffusers_lora(found, path: Path, ends=("lora_B", "lora_A"), **metadata: str) -> Path:
    """Write ``pytorch_lora_weights.safetensors``, with today's names or those before."""
    tensors = {}
    for name, pair in found.items():
        layer = name.removesuffix(".weight")
        for end, factor in zip(ends, pair, strict=True):
            tensors[f"{layer}.{end}.weight"] = factor
    save_file(tensors, path, {"format": "pt", **metadata})
    return path
