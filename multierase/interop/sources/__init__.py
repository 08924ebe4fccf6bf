"""Formats of other tools that are imported, one per file. Their names need no torch."""

from __future__ import annotations

from dataclasses import dataclass

from multierase.prompts.concepts import require_distinct


@dataclass(frozen=True)
class Source:
    """A format that is imported. A file's name says nothing: its container and keys do.

    Args:
        about: what it holds.
        writers: who writes it.
        known_by: how it is recognised.
    """

    about: str
    writers: str
    known_by: str


@dataclass(frozen=True)
class ImportSettings:
    """The settings of an import of another tool's file.

    Args:
        also: more concepts that the file erases together with this one.
        kind: how people speak of the concept: a shipped kind, one that the base brings, or a YAML
            file; ``auto`` takes the base's own, else ``artist``, and ``none`` asks no sentences.
        project: keep only what reads the text alone, brought into the concept's own directions. So
            it is the concept's alone, also of a file that erases several.
        refined: the folder of the model that a file is relative to, as MACE's are.
        seed: seed of the sentences that are asked.

    Raises:
        UsageError: for a concept that is given twice.
    """

    also: tuple[str, ...] = ()
    kind: str = "auto"
    project: bool = False
    refined: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "also", tuple(self.also))
        require_distinct(self.also)


# In the order in which they are tried.
SOURCES: dict[str, Source] = {
    "folder": Source(
        "a pipeline's folder, whole weights",
        "diffusers, MACE's final `LoRA_fusion_model`",
        "a folder with `model_index.json`, or a part's `config.json`",
    ),
    "esd": Source(
        "whole weights of the trained layers, that say so",
        "ESD: `erasing-esd-v2`, and the `.pt` of its other implementation",
        "the header's `format`; a pickle of layers, each with `weight` and `bias`",
    ),
    "concept_ablation": Source(
        "whole weights of the trained layers, although it is called a delta",
        "Concept Ablation's `delta.bin` and `delta_*.ckpt`, CUIG",
        "a pickle with `unet`, or with a `state_dict` of attention layers alone",
    ),
    "mace": Source(
        "low-rank, added to the U-Net that MACE refined for all concepts first",
        "MACE, one file per concept",
        "rank 1 for all attention, of which only `attn2`'s keys and values are not zero",
    ),
    "kohya": Source(
        "low-rank factors, scaled by alpha over rank; dense differences",
        "SPM, LECO, kohya's scripts, ComfyUI",
        "`lora_unet_…` names with `_` in place of `.`",
    ),
    "peft": Source(
        "low-rank factors",
        "diffusers' LoRAs, old and new, PEFT's folders",
        "`lora_A`/`lora_B`, `lora.down`/`lora.up` or `….processor.to_k_lora.down` names",
    ),
    "full": Source(
        "whole weights of a whole denoiser, or of a whole checkpoint",
        "ESD of 2023, RECE, UnlearnCanvas, SepME, UCE of 2023",
        "names that no partial training has: normalisation layers",
    ),
    "bare": Source(
        "whole weights of some layers, under their names alone",
        "ESD, UCE, SPEED, CUIG",
        "all other names that are the denoiser's",
    ),
}
