"""The verb ``completion``: a script for a shell."""

from __future__ import annotations

from jsonargparse import Namespace

from multierase.cli.completion import script
from multierase.errors import UsageError


def run_completion(arguments: Namespace) -> dict:
    """Make the script of one shell."""
    if arguments.shell is None:
        raise UsageError("name a shell: source <(multierase completion bash), or zsh, or fish")

    return {"shell": arguments.shell, "script": script(arguments.shell)}


def print_completion(report: dict) -> None:
    print(report["script"], end="")
