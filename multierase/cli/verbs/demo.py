"""The verb ``demo``: two studios erased, one restored, seen and measured."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from multierase.cli.console import percent, print_table, say
from multierase.cli.requests import announce, settings_of
from multierase.training.settings import EraseSettings


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
    studios = list(next(iter(report["accuracy"].values())))
    rows = [
        (state, *(percent(shares[studio]) for studio in studios))
        for state, shares in report["accuracy"].items()
    ]
    title = "pictures that the judge gives to the studio they were asked of"
    print_table(title, ("", *studios), rows)
    print_table("bit for bit", ("", ""), list(report["bit_exact"].items()))
    if report["used_again"]:
        say(f"used again the increments of {' and '.join(report['used_again'])}")
    out = report["out"].rstrip("/")
    say(f"wrote {out}/sheet.png, report.json and lib/ in {report['seconds']} s")
