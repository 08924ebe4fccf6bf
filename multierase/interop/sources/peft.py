"""LoRAs under diffusers' names, old and new, ComfyUI's, and PEFT's folders."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from multierase.errors import WeightsFileError
from multierase.files import plain
from multierase.interop.naming import PREFIXES, WEIGHT, Names, Place
from multierase.interop.reading import FOLDER, Found
from multierase.interop.sources.low_rank import added, has_factors, layers_of
from multierase.interop.sources.peer import LONGEST_SAID, Peer

KIND, LORA = "peft_type", "LORA"
WRAPPER = "base_model.model."
IN_HEADER = "lora_adapter_metadata"  # diffusers' own place for PEFT's configuration
# Starts that change the base's weights too: what they add belongs to those.
OWN_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
NOT_PLAIN = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "modules_to_save",
    "target_parameters",
    "layer_replication",
)


def matches(found: Found) -> bool:
    return has_factors(found)


def read(found: Found, names: Names) -> Peer:
    """Read the factors, scaled as the configuration beside them says."""
    config = _config(found)
    _require_plain(found, config)

    def place_of(layer: str) -> Place | None:
        return names.of_key(layer.removeprefix(WRAPPER) + WEIGHT)

    result = added(layers_of(found.tensors), names, place_of, _scales(config))
    about = "PEFT's low-rank folder" if found.container == FOLDER else "a LoRA under layers' names"
    kept = ("r", "lora_alpha", "use_rslora", "base_model_name_or_path")
    return Peer(
        about=about,
        deltas=result.deltas,
        unknown=result.unknown,
        beside=result.beside,
        dtype=result.dtype,
        said={key: _plainly(config[key]) for key in kept if key in config},
    )


def _plainly(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | None) else plain(value)[:LONGEST_SAID]


def _config(found: Found) -> Mapping[str, Any]:
    """Return PEFT's configuration: of a folder, or of a file's header; empty without one."""
    if KIND in found.metadata:
        return found.metadata
    try:
        listed = json.loads(found.metadata.get(IN_HEADER, "{}"))
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsFileError(f"{found.path}: its {IN_HEADER} cannot be read: {error}") from error

    config = {}
    for key, value in listed.items() if isinstance(listed, dict) else ():
        for prefix in PREFIXES:
            if prefix and key.startswith(prefix):
                config[key.removeprefix(prefix)] = value
    return config


def _require_plain(found: Found, config: Mapping[str, Any]) -> None:
    kind, start = config.get(KIND, LORA), config.get("init_lora_weights", True)
    if kind != LORA:
        raise WeightsFileError(f"{found.path} is an adapter of the kind {kind!r:.40}, not a LoRA")
    if isinstance(start, str) and start.lower().startswith(OWN_STARTS):
        raise WeightsFileError(
            f"{found.path} was started by {start!r:.40}, which changes the base's own weights too: "
            "save it as a plain LoRA where it was made (path_initial_model_for_weight_conversion)"
        )
    for key in NOT_PLAIN:
        if config.get(key):
            raise WeightsFileError(
                f"{found.path} has {key} {config[key]!r:.60}: only plain LoRAs are read; merge it "
                "where it was made, and import the merged weights"
            )


def _scales(config: Mapping[str, Any]) -> Callable[[str, int], float] | None:
    """Return what a layer's product is multiplied by; ``None`` without a configuration."""
    if "lora_alpha" not in config:
        return None
    usual, patterns = _number(config["lora_alpha"]), {}
    listed = config.get("alpha_pattern")
    for pattern, own in listed.items() if isinstance(listed, dict) else ():
        patterns[_layer_meant(pattern)] = _number(own)

    def scale_of(layer: str, rank: int) -> float:
        alphas = [own for meant, own in patterns.items() if f".{layer}".endswith(f".{meant}")]
        alpha = alphas[0] if alphas else usual
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

    return scale_of


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WeightsFileError(f"alpha {value!r:.40} is no number")

    return float(value)


def _layer_meant(pattern: str) -> str:
    """Return the layer's name, or the end of it, that a pattern stands for.

    PEFT takes it for a regular expression. A stranger's is not run: it may take for ever.
    """
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.]+", name):
        raise WeightsFileError(f"alpha_pattern {pattern!r:.60} is no layer's name: it is not read")

    return name
