"""Draw the pictures of the documentation, from runs on the embedded base.

    python docs/pictures.py --library build/pictures --out docs/pictures

Erases eight studios with the defaults and, for the comparison, with ESD-x (free weights of all of
cross-attention, as published). Some ten minutes on two cores; increments that are in the library
already are used again. Needs the extra ``plots``. Seeds are fixed and not chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from multierase import EraseSettings, Model, Workspace, load_base
from multierase.files import digest_tensors
from multierase.generate import generate
from multierase.pictures import contact_sheet, save_picture

STUDIOS = (
    "Twemoji",
    "Noto",
    "Firefox",
    "Fluent",
    "Blobmoji",
    "Fluent Flat",
    "EmojiOne Mono",
    "Fluent High Contrast",
)
KEPT = "EmojiOne"  # no increment erases it
SUBJECTS = ("church", "cat", "sunflower")
SEED = 7  # as the demonstration's
# As the authors': all of cross-attention, trained freely on the bare name, without a start.
FREE = EraseSettings(
    kind="none",
    scope="esd-x",
    decouple=False,
    start_at=1.0,
    known=False,
    free_learning_rate=3e-4,
    trajectories=16,
    prompts_per_point=1,
    steps=60,
)
INK, RED, BLUE, GREY = "#222222", "#c0392b", "#2471a3", "#666666"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, default=Path("build/pictures"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()

    model = load_base("emoji")
    ours = Workspace(arguments.library / "ours", model, create=True)
    free = Workspace(arguments.library / "esd-x", model, create=True, solve="sum")
    for workspace, settings in ((ours, EraseSettings()), (free, FREE)):
        missing = [studio for studio in STUDIOS if studio not in workspace.library]
        if missing:
            workspace.train(*missing, settings=settings, progress=True)

    out = arguments.out
    draw_target(out / "target.png")
    save_picture(strengths(ours), out / "strengths.png")
    save_picture(restored(ours), out / "restored.png")
    save_picture(piling_up(free, ours), out / "piling-up.png")
    save_picture(first_look(ours), out / "tutorial.png")


def drawn(model: Model, prompts: Sequence[str]) -> torch.Tensor:
    """Return one picture for each prompt, all from the same noise."""
    return generate(model, prompts, [SEED] * len(prompts))


def first_look(workspace: Workspace) -> Image.Image:
    """Draw what the tutorial makes: the base, two studios erased, the first restored."""
    prompts = [f"a church by {studio}" for studio in ("Twemoji", "Noto", "Fluent Flat")]
    rows = {"base": (), "both erased": ("Twemoji", "Noto"), "Twemoji restored": ("Noto",)}

    return _sheet(workspace, prompts, rows)


def _sheet(
    workspace: Workspace, prompts: Sequence[str], rows: dict[str, Sequence[str]]
) -> Image.Image:
    pictures = []
    for erased in rows.values():
        with workspace.erasing(*erased):
            pictures.append(drawn(workspace.model, prompts))
    workspace.composer.close()

    return contact_sheet(
        torch.cat(pictures), len(prompts), row_labels=list(rows), column_labels=prompts
    )


def strengths(workspace: Workspace) -> Image.Image:
    """Draw one prompt at five strengths of its increment, and at one that goes the other way."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    prompts = [f"a {subject} by Twemoji" for subject in SUBJECTS]
    rows = []
    for share in shares:
        workspace.set({"Twemoji": share} if share else {})
        rows.append(drawn(workspace.model, prompts))
    workspace.composer.close()

    pictures = torch.stack(rows, 1).flatten(0, 1)  # subjects down, strengths across
    return contact_sheet(
        pictures,
        len(shares),
        row_labels=prompts,
        column_labels=[f"strength {share:g}" for share in shares],
    )


def restored(workspace: Workspace) -> Image.Image:
    """Draw the base, two erased, one restored, all restored, and the last less the first.

    Raises:
        RuntimeError: if the restored weights are not the base's bits.
    """
    prompts = [f"a {subject} by Twemoji" for subject in SUBJECTS]
    model = workspace.model
    before, base = digest_tensors(model.parameters()), drawn(model, prompts)
    states = [base]
    for erased in (["Twemoji", "Noto"], ["Noto"], []):
        workspace.set(dict.fromkeys(erased, 1.0))
        states.append(drawn(model, prompts))
    if digest_tensors(model.parameters()) != before:
        raise RuntimeError("the restored weights are not the base's bits")
    workspace.composer.close()

    labels = ["base", "Twemoji and Noto erased", "Twemoji restored", "all restored"]
    difference = (states[-1] - base).abs()
    return contact_sheet(
        torch.stack([*states, difference], 1).flatten(0, 1),
        len(labels) + 1,
        row_labels=prompts,
        column_labels=[*labels, "all restored less base"],
    )


def piling_up(free: Workspace, ours: Workspace) -> Image.Image:
    """Draw a studio that nobody erases, while more and more others are erased, in two ways."""
    prompts = [f"a {subject} by {KEPT}" for subject in SUBJECTS]
    counts = (0, 1, 2, 4, 8)
    sheets = []
    for workspace in (free, ours):
        composer = workspace.composer
        columns = []
        for count in counts:
            composer.set(dict.fromkeys(STUDIOS[:count], 1.0))
            columns.append(drawn(workspace.model, prompts))
        composer.close()
        sheets.append(torch.stack(columns, 1).flatten(0, 1))

    labels = [f"ESD-x, summed: {prompt}" for prompt in prompts]
    labels += [f"joint solve: {prompt}" for prompt in prompts]
    return contact_sheet(
        torch.cat(sheets),
        len(counts),
        row_labels=labels,
        column_labels=[f"{count} others erased" for count in counts],
    )


def draw_target(path: Path) -> None:
    """Draw ESD's target as arrows: two predictions of the base, and what training moves towards."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(-3.9, 2.1)
    axes.set_ylim(-0.75, 0.75)

    axes.plot([-3.5, 1.6], [0, 0], color=GREY, linewidth=1, zorder=0)
    marks = {
        1: ("degree 1\nthe base", BLUE, "with the concept:\n“a church by Twemoji”"),
        0: ("degree 0\nnothing of it is left", INK, "without it:\n“a church”"),
        -1: ("degree −1\ntraining starts here,\nand may stop here", GREY, ""),
        -3: ("degree −η, here −3\nESD's target", RED, ""),
    }
    for place, (below, colour, above) in marks.items():
        axes.plot([place], [0], "o", color=colour, markersize=9)
        axes.text(place, -0.14, below, ha="center", va="top", color=colour, fontsize=10)
        axes.text(place, 0.34, above, ha="center", va="bottom", color=colour, fontsize=10)

    arrow = {"arrowstyle": "-|>", "linewidth": 2, "shrinkA": 6, "shrinkB": 6}
    blue, red = arrow | {"color": BLUE}, arrow | {"color": RED}
    axes.annotate("", (1, 0.12), (0, 0.12), arrowprops=blue)
    axes.text(0.5, 0.17, "what the concept adds", ha="center", color=BLUE, fontsize=10)
    axes.annotate("", (-3, 0.12), (0, 0.12), arrowprops=red)
    axes.text(-1.5, 0.17, "−η times what the concept adds", ha="center", color=RED, fontsize=10)

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    save_picture(picture.convert("RGB"), path)


if __name__ == "__main__":
    main()
