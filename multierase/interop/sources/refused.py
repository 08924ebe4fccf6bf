"""What is known and yet not imported, each with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable

from multierase.errors import WeightsFileError
from multierase.increments.header import METADATA_KEY
from multierase.interop.reading import Found

TOWER = re.compile(r"(text_model\.)?(encoder\.layers|embeddings)\.")
VERSION = '"format_version"'
CACHE = re.compile(r"\d+_for_mat[12]")  # of MACE: sums over prompts
OTHER_ADAPTERS = {
    "LoHa": ".hada_w1_a",
    "LoKr": ".lokr_w",
    "DoRA": (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
    "OFT": (".oft_blocks", ".oft_diag", ".oft_R"),
    "GLoRA": ".a1.weight",
}


def require_readable(found: Found) -> None:
    """Raise ``WeightsFileError`` for a file that is known to hold something else."""
    for is_one, reason in REASONS:
        if is_one(found):
            raise WeightsFileError(f"{found.path} {reason}")

    names = list(found.tensors)
    for adapter, marks in OTHER_ADAPTERS.items():
        marked = marks if isinstance(marks, tuple) else (marks,)
        if any(mark in name for name in names for mark in marked):
            raise WeightsFileError(
                f"{found.path} is an adapter of the kind {adapter}, which is not a sum of low-rank "
                "or dense differences, and is not read: merge it into its base where it was made, "
                "and import the merged weights"
            )


def _is_ours(found: Found) -> bool:
    # What this package exports for other tools has an entry of that name, too.
    return VERSION in str(found.metadata.get(METADATA_KEY, ""))


def _is_text_tower(found: Found) -> bool:
    return bool(found.tensors) and all(TOWER.match(_bare(name)) for name in found.tensors)


def _bare(name: str) -> str:
    return name.removeprefix("text_encoder.").replace("text_model.final_layer_norm.", "embeddings.")


def _is_cache(found: Found) -> bool:
    return bool(found.tensors) and all(CACHE.fullmatch(name) for name in found.tensors)


def _is_empty(found: Found) -> bool:
    return not found.count


REASONS: tuple[tuple[Callable[[Found], bool], str], ...] = (
    (
        _is_ours,
        "is an increment of multierase's own: copy it into the library, under its concept's name "
        "(`multierase validate` says whether it fits)",
    ),
    (_is_empty, "holds no tensors"),
    (
        _is_text_tower,
        "holds a text encoder's weights (AdvUnlearn writes such). Increments change the denoiser "
        "alone, so it cannot become one",
    ),
    (
        _is_cache,
        "is a cache of MACE's, of sums over prompts: import its LoRA files, or its final "
        "pipeline's folder",
    ),
)
