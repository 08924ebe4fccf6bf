"""What the verbs about the installation and a library's files take: data, no work."""

from __future__ import annotations

from multierase.cli.flags import Option, one_of
from multierase.cli.option_groups import library

SHELLS = ("bash", "zsh", "fish")


def doctor_options() -> list[Option]:
    return [
        Option(
            "--base",
            "base to look for: 'emoji' or 'type' (embedded), a diffusers folder, a .safetensors "
            "file or a hub id; it is neither loaded nor downloaded",
            default="emoji",
        )
    ]


def completion_options() -> list[Option]:
    return [Option("shell", "the shell that reads the script", type=one_of(SHELLS))]


def remove_options() -> list[Option]:
    return [
        Option("concepts", "names of the concepts", several=True, default=[]),
        library(),
    ]


def rename_options() -> list[Option]:
    return [
        Option("names", "the concept's name, and its new one", several=True, default=[]),
        library(),
    ]
