"""The verb ``demo``: concepts erased, some restored, seen and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from jsonargparse import Namespace

from multierase.cli.console import percent, print_table, say
from multierase.cli.requests import announce, settings_of
from multierase.training.settings import EraseSettings

MOST_COLUMNS = 6  # of a table, one for each concept


def run_demo(arguments: Namespace) -> dict:
    """Run the demonstration into a folder."""
    settings = settings_of(EraseSettings, arguments)

    announce(f"loading {arguments.base}")
    from multierase import demo
    from multierase.models.loading import load_base

    model = load_base(
        arguments.base,
        device=arguments.device,
        dtype=arguments.dtype,
        config=arguments.base_config,
        t5_length=arguments.t5_length,
        resolution=arguments.resolution,
        offload=arguments.offload,
    )
    return {"out": arguments.out} | demo.run_demo(
        model,
        Path(arguments.out),
        settings,
        overwrite=arguments.overwrite,
        progress=True,
    )


def print_demo(report: dict) -> None:
    title = "pictures that the judge gives to the concept they were asked of"
    print_table(title, *_table(report["accuracy"], report["erased"]))
    print_table("bit for bit", ("", ""), list(report["bit_exact"].items()))
    if report["used_again"]:
        say(f"used again the increments of {' and '.join(report['used_again'])}")
    out = report["out"].rstrip("/")
    say(f"wrote {out}/sheet.png, report.json and lib/ in {report['seconds']} s")


def _table(
    accuracy: Mapping[str, Mapping[str, float]], erased: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows: a column for each concept, or for many of what is erased or not."""
    concepts = tuple(next(iter(accuracy.values())))
    if len(concepts) <= MOST_COLUMNS:
        rows = []
        for state, shares in accuracy.items():
            rows.append((state, *(percent(shares[concept]) for concept in concepts)))
        return ("", *concepts), rows

    rows = []
    for state, shares in accuracy.items():
        gone = [shares[concept] for concept in erased[state]]
        others = [share for concept, share in shares.items() if concept not in erased[state]]
        rows.append((state, percent(mean(gone)) if gone else "", percent(mean(others))))
    return ("", "of the erased", "of the others"), rows
