"""Formats that a composed set is written in, one per file. Their names need no torch."""

from __future__ import annotations

from dataclasses import dataclass

from multierase.errors import UsageError, suggest

PICKLED = (".pt", ".pth", ".bin")
PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Target:
    """A format that a composed set is written in.

    Args:
        about: one line for the help.
        suffixes: of its file; none for a folder.
        adds: whether it is added to a base, or is a whole model.
        low_rank: whether its numbers are factors.
        unet: whether only U-Nets have it.
    """

    about: str
    suffixes: tuple[str, ...] = ()
    adds: bool = False
    low_rank: bool = False
    unet: bool = False


TARGETS = {
    "pipeline": Target("a diffusers pipeline folder, whole"),
    "unet": Target(
        "the denoiser's weights under diffusers' names, as .pt for what loads state dicts",
        (".safetensors", *PICKLED),
    ),
    "single-file": Target("a checkpoint for user interfaces, whole", (".safetensors",)),
    "kohya": Target(
        "a low-rank file for ComfyUI, Forge, A1111 and diffusers",
        (".safetensors",),
        adds=True,
        low_rank=True,
        unet=True,
    ),
    "diff": Target(
        "dense, exact differences for ComfyUI, Forge and A1111", (".safetensors",), adds=True
    ),
    "diffusers": Target("a LoRA folder for diffusers and PEFT", adds=True, low_rank=True),
    "hub-folder": Target(
        "a folder to upload: increments, LoRA, model card, pictures", adds=True, low_rank=True
    ),
}


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export: how a composed set is written.

    Args:
        rank: ranks of a low-rank format, at most; by default as many as the increments have, which
            loses nothing but rounding.
        precision: type of an added file's numbers: float32, float16 or bfloat16.
        prompt: drawn by the base and by the export, for the picture that goes with them; by default
            a sentence about the first erased concept.
        quick: make no picture, and ask for no certificate.
        license: the base's, for a model card; by default what its own card says.

    Raises:
        ValueError: for a rank below 1, or an unknown precision.
    """

    rank: int | None = None
    precision: str = "float32"
    prompt: str | None = None
    quick: bool = False
    license: str | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank {self.rank}: give 1 or more, or leave it away")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}: give one of {list(PRECISIONS)}")


def target_named(name: str) -> Target:
    """Return a target. Raises ``UsageError`` for an unknown one."""
    if name not in TARGETS:
        raise UsageError(
            f"unknown format {name!r}{suggest(name, TARGETS)}; formats: {sorted(TARGETS)}"
        )

    return TARGETS[name]
