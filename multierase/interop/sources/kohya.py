"""Files with ``lora_unet_`` names: SPM, LECO, kohya's scripts; and dense ones for ComfyUI.

(SPM: arXiv 2312.16145)
"""

from __future__ import annotations

from multierase.interop.naming import Names, Place
from multierase.interop.reading import Found
from multierase.interop.sources.low_rank import Layer, added, has_factors, layers_of
from multierase.interop.sources.peer import Peer, said_of

DENOISER = ("lora_unet_", "lora_transformer_", "lycoris_")
TEXT_TOWERS = ("lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")
MODULE = "ss_network_module"


def matches(found: Found) -> bool:
    return has_factors(found) and all(
        name.startswith((*DENOISER, *TEXT_TOWERS)) for name in found.tensors
    )


def read(found: Found, names: Names) -> Peer:
    """Read factors and differences; alpha over rank scales them, where there is an alpha."""
    layers = layers_of(found.tensors)

    def place_of(layer: str) -> Place | None:
        for prefix in DENOISER:
            if layer.startswith(prefix):
                return names.of_layer(layer.removeprefix(prefix))
        return None

    result = added(layers, names, place_of)
    said = said_of(found)
    return Peer(
        about=_about(found, layers),
        deltas=result.deltas,
        unknown=result.unknown,
        beside=result.beside,
        dtype=result.dtype,
        said=said,
        # A comma within a concept's name parts it too.
        concepts=[name.strip() for name in said.get("prompts", "").split(",") if name.strip()],
    )


def _about(found: Found, layers: dict[str, Layer]) -> str:
    if all(parts.up is None for parts in layers.values()):
        return "dense differences by layer, as ComfyUI reads them"
    if {"prompts", "rank", "alpha"} <= found.metadata.keys():
        return "SPM's low-rank file"
    if MODULE in found.metadata:
        return f"a low-rank file of kohya's {str(found.metadata[MODULE])[:60]}"

    return "a low-rank file under kohya's names, as LECO writes it"
