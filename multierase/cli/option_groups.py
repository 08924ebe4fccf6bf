"""Options that several verbs have in common."""

from __future__ import annotations

from multierase.cli.flags import Option, one_of

DTYPES = ("float32", "float16", "bfloat16")
SOLVES = ("sum", "joint")
PROMPT_LIST = "prompts to keep: a .txt with one a line, or a .csv with a column 'prompt'"


def base() -> list[Option]:
    return [
        Option(
            "--base",
            "base model: 'emoji' or 'type' (embedded), a diffusers folder, a .safetensors file or "
            "a hub id",
            default="emoji",
        ),
        Option(
            "--base_config",
            "for a single file: the folder or hub id of a pipeline of its architecture",
            type=str | None,
            metavar="FOLDER",
        ),
        Option(
            "--device", "cpu, cuda, cuda:1, ...; by default a GPU if there is one", type=str | None
        ),
        Option(
            "--dtype", "precision of the base's weights", type=one_of(DTYPES), default="float32"
        ),
        Option(
            "--t5_length",
            "tokens of a prompt that T5 reads, for Stable Diffusion 3 and FLUX.1, or Qwen3, for "
            "FLUX.2; by default as many as the pipeline does",
            type=int | None,
        ),
        Option(
            "--resolution",
            "pixels on a side, in training and in pictures; by default the base's own",
            type=int | None,
        ),
        Option(
            "--offload",
            "keep text towers and VAE on the CPU while they do not compute, for a small GPU",
            switch=True,
        ),
    ]


def library(help: str = "folder of increments") -> Option:
    return Option("--library", help, required=True, metavar="FOLDER")


def executors(default: str | None) -> list[Option]:
    """Where work is done that goes to several workers.

    Args:
        default: ``None`` where it is done in one run unless an executor is asked for.
    """
    kinds = one_of(("processes", "ray"))
    return [
        Option(
            "--workers", "processes of one thread each; by default one per core", type=int | None
        ),
        Option(
            "--executor",
            "where the workers are: on this machine, or on a Ray cluster whose nodes all see the "
            "same folders",
            type=kinds if default else kinds | None,
            default=default,
        ),
        Option(
            "--address", "address of the Ray cluster; by default one is started", type=str | None
        ),
        Option(
            "--gpus_per_worker",
            "share of a GPU per worker, on a Ray cluster",
            type=float,
            default=0.5,
        ),
    ]


def keep_file() -> Option:
    return Option("--keep_file", f"more {PROMPT_LIST}", type=str | None, metavar="FILE")


def solve() -> list[Option]:
    return [
        Option(
            "--solve",
            "how increments are composed: joint if there is a keep-list, the base's own or a given "
            "one, else their sum",
            type=one_of(SOLVES) | None,
        ),
        Option("--keep_weight", "weight of what is kept in a joint solve", type=float, default=3.0),
    ]


def composition() -> list[Option]:
    return [
        *base(),
        Option("--library", "folder of increments", type=str | None, metavar="FOLDER"),
        Option(
            "--erase",
            "concepts to erase, as NAME or NAME=STRENGTH; a name that contains '=' is tried first",
            several=True,
            metavar="NAME[=STRENGTH]",
        ),
        Option("--keep", "prompts to keep", several=True, metavar="PROMPT"),
        keep_file(),
        *solve(),
    ]
