"""The verb ``doctor``: what this machine has, what it lacks, and what to type."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from multierase.cli.console import print_table, say

GIGA = 1e9


def run_doctor(arguments: Namespace) -> dict:
    """Examine the installation, and whether one base is found."""
    from multierase.doctor import examine

    found = examine(arguments.base)

    return {**found.as_dict(), "sound": not found.problems}


def print_doctor(report: dict) -> None:
    packages = [report["python"], *report["packages"]]
    rows = [(one["name"], one["installed"] or "missing", one["needed"]) for one in packages]
    print_table(f"multierase {report['version']}", ("package", "installed", "needed"), rows)

    print_table("this machine", ("", ""), _machine(report))

    extras = []
    for extra in report["extras"]:
        lacking = ", ".join(extra["lacking"])
        install = extra["install"] if lacking else ""
        extras.append((extra["name"], "no" if lacking else "yes", install, lacking))
    print_table("extras", ("extra", "installed", "to install it", "lacking"), extras)

    if report["sound"]:
        say("all that is needed is here")
    for problem in report["problems"]:
        say(problem, label="broken: ", style="red")


def _machine(report: dict) -> list[tuple[str, object]]:
    machine, cache = report["machine"], report["cache"]
    threads = f", {machine['threads']} used (OMP_NUM_THREADS)" if machine["threads"] else ""
    size = f"{cache['bytes'] / GIGA:.1f} GB, {cache['models']} models"
    rows = [
        ("device", _device(machine)),
        ("cores", f"{machine['cores']}{threads}"),
        ("hub cache", f"{cache['folder']}, {size if Path(cache['folder']).is_dir() else 'empty'}"),
        ("offline", "yes (HF_HUB_OFFLINE)" if cache["offline"] else "no"),
        ("base", _base(report["base"])),
    ]

    return rows


def _device(machine: dict) -> str:
    built = f"torch for CUDA {machine['cuda']}" if machine["cuda"] else "torch without CUDA"
    gpus = ", ".join(machine["gpus"]) or "no NVIDIA GPU"
    hidden = ""
    if machine["visible"] is not None and machine["gpus"]:
        hidden = f", CUDA_VISIBLE_DEVICES={machine['visible']}"

    return f"{machine['device']} ({built}; {gpus}{hidden})"


def _base(base: dict) -> str:
    if base["kind"] == "embedded":
        return f"{base['source']}, embedded"
    if base["found"]:
        return f"{base['source']}, {base['kind']}: {base['place']}"
    if base["problem"]:
        return f"{base['source']}: not found"

    return f"{base['source']}: not in the cache, is downloaded when it is first needed"
