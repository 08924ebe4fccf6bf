"""What user interfaces and model managers read in a file's header.

Never a trigger phrase: an interface may insert it into the prompt, and so mention the concept.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import torch

import multierase
from multierase.files import digest_bytes
from multierase.increments.container import stored_bytes
from multierase.interop.outgoing import Outgoing
from multierase.models.model import Model
from multierase.pictures import shrunk

KEY = "multierase"
MODELSPEC = "1.0.1"
COVER, THUMBNAIL = 768, 256  # pixels at most; ComfyUI reads no header of more than 8 MiB
SD3_LAYERS = {24: "medium", 38: "3.5-large"}


def architecture(model: Model) -> str:
    """Return the base's architecture as ``modelspec.architecture`` names it."""
    config: Any = next(iter(model.components.values())).config
    if model.family == "stable-diffusion-xl":
        return "stable-diffusion-xl-v1-base"
    if model.family == "stable-diffusion-3":
        medium = "3.5-medium" if config.dual_attention_layers else "medium"
        return f"stable-diffusion-3-{SD3_LAYERS.get(config.num_layers, medium)}".replace(
            "3-3.5", "3.5"
        )
    if model.family == "flux":
        return "flux-1-dev" if config.guidance_embeds else "flux-1-schnell"
    if model.family == "flux-2-klein":
        return "flux-2-klein"
    if not is_second(model):
        return "stable-diffusion-v1"
    v = model.pipeline.scheduler.config.prediction_type == "v_prediction"
    return "stable-diffusion-v2-768-v" if v else "stable-diffusion-v2-512"


def is_second(model: Model) -> bool:
    """Tell Stable Diffusion 2.x, which reads OpenCLIP, from 1.x."""
    if model.family != "stable-diffusion":
        return False

    return model.pipeline.text_encoder.config.hidden_act != "quick_gelu"


def base_version(model: Model) -> str:
    """Return the base as kohya's scripts name it in ``ss_base_model_version``."""
    if model.family == "stable-diffusion":
        return "sd_v2" if is_second(model) else "sd_v1"
    known = {"stable-diffusion-xl": "sdxl_base_v1-0", "stable-diffusion-3": "sd3"}

    return known.get(model.family, "flux1" if model.family == "flux" else "flux2_klein")


def header(
    outgoing: Outgoing, tensors: Mapping[str, torch.Tensor], *, lora: bool
) -> dict[str, str]:
    """Return a file's metadata, sorted by key.

    Args:
        lora: whether the file is added to a model, or is one.
    """
    model, concepts = outgoing.model, list(outgoing.erased)
    kind = architecture(model)
    first_generation = kind.startswith(("stable-diffusion-v1", "stable-diffusion-v2"))
    entries = {
        KEY: json.dumps(outgoing.about, sort_keys=True),
        "modelspec.sai_model_spec": MODELSPEC,
        "modelspec.architecture": f"{kind}/lora" if lora else kind,
        "modelspec.implementation": (
            "diffusers"
            if lora and first_generation
            else "https://github.com/Stability-AI/generative-models"
        ),
        "modelspec.title": title(concepts),
        "modelspec.description": description(outgoing, lora),
        "modelspec.author": f"multierase {multierase.__version__}",
        "modelspec.hash_sha256": f"0x{digest_bytes(*stored_bytes(tensors))}",
        "modelspec.resolution": "x".join([str(_side(model))] * 2),
        "modelspec.tags": "erase,concept-erasure",
        "modelspec.merged_from": ", ".join(concepts),
    }
    if model.family.startswith("stable-diffusion") and model.family != "stable-diffusion-3":
        prediction = model.pipeline.scheduler.config.prediction_type
        entries["modelspec.prediction_type"] = "v" if prediction == "v_prediction" else "epsilon"
    if lora:
        entries["modelspec.usage_hint"] = (
            "strength 1 erases as it was made, 0 is the base; a negative one draws more of it"
        )
        entries |= _kohya(outgoing)
    if outgoing.picture is not None:
        entries["ssmd_cover_images"] = json.dumps([_encoded(outgoing.picture, COVER)])
        thumbnail = _encoded(outgoing.picture, THUMBNAIL)
        entries["modelspec.thumbnail"] = f"data:image/png;base64,{thumbnail}"

    return dict(sorted(entries.items()))


def title(concepts: list[str]) -> str:
    """Return ``"Erase: Van Gogh (multierase)"``."""
    return f"Erase: {', '.join(concepts)} (multierase)"


def description(outgoing: Outgoing, lora: bool) -> str:
    """Say in a sentence what the file does, and what adding it to another does."""
    names = ", ".join(f"{name} ({strength:g})" for name, strength in outgoing.erased.items())
    sentence = f"Erases, each with its strength: {names}."
    if not lora:
        return sentence

    return (
        f"{sentence} Interfaces add files up, and sums of erasures harm what is kept: to erase "
        "another set, export that set as one file."
    )


def _encoded(png: bytes, side: int) -> str:
    return base64.b64encode(shrunk(png, side)).decode()


def _kohya(outgoing: Outgoing) -> dict[str, str]:
    # A dense file has no rank; where some layers have a smaller one, the file's is the largest.
    rank = str(max(outgoing.ranks.values())) if outgoing.ranks else "Dynamic"

    return {
        "ss_v2": str(is_second(outgoing.model)),
        "ss_base_model_version": base_version(outgoing.model),
        "ss_sd_model_name": outgoing.model.name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": "{}",
        "ss_output_name": "erase-" + "-".join(outgoing.erased),
    }


def _side(model: Model) -> int:
    return model.latent_shape[-1] * model.scale
