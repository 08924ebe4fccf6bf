"""The verb ``certify``: what erasing a set does, by unseen sentences, without a picture."""

from __future__ import annotations

from jsonargparse import Namespace

from multierase.cli.console import percent, print_table, say
from multierase.cli.requests import listed_in, open_workspace, strengths_of
from multierase.errors import UsageError
from multierase.increments.library import Library

COLUMNS = ("concept", "erased", "gone", "degree", "worst", "moved", "worst sentence")


def run_certify(arguments: Namespace) -> dict:
    """Ask the base and the composed model for unseen sentences."""
    library = Library(arguments.library)
    strengths = strengths_of(arguments.erase, library)
    if any(strength != 1 for strength in strengths.values()):
        raise UsageError("certify examines whole increments: give names without a strength")

    keep = [*listed_in(arguments.keep_file)]
    workspace = open_workspace(
        arguments, keep=keep, solve=arguments.solve, keep_weight=arguments.keep_weight
    )
    return {"library": arguments.library, **workspace.certify(*strengths)}


def print_certify(report: dict) -> None:
    rows = []
    for name, found in report["concepts"].items():
        rows.append(
            (
                name,
                found["erased"],
                percent(found.get("gone")) if found["erased"] else "-",
                found.get("degree"),
                found.get("worst"),
                percent(found["moved"]),
                found.get("worst_sentence") if found["erased"] else "-",
            )
        )
    print_table("unseen sentences, after erasing the set", COLUMNS, rows)
    for side in ("kept", "general"):
        if side in report:
            moved = report[side]
            say(
                f"{side} prompts move by {percent(moved['moved'])} of what a concept adds, at "
                f"most {percent(moved['worst'])} ({moved['worst_prompt']!r})"
            )
