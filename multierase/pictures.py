"""Pictures to look at: sheets, matrices, files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from multierase.errors import MissingExtra
from multierase.files import plain, replacing

if TYPE_CHECKING:
    import torch  # which takes seconds; a file's name is checked before

GAP = 4  # pixels between pictures
LINE = 17  # pixels of a label's line
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALL = 128  # pictures smaller than this are shown twice as large
TITLE_LETTERS = 12  # of a title, in an inch
WIDEST = 180  # pixels of a row's label; a longer one is wrapped


def to_picture(image: torch.Tensor) -> Image.Image:
    """Turn ``(3, h, w)`` in [0, 1] into a picture."""
    pixels = (image.clamp(0, 1) * 255).round().byte()

    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def contact_sheet(
    images: torch.Tensor,
    columns: int,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Lay out ``(n, 3, h, w)`` pictures in [0, 1] row by row, with labels."""
    scale = 2 if images.shape[-1] < SMALL else 1
    height, width = (side * scale for side in images.shape[-2:])
    font = ImageFont.load_default(14)

    beside = [_wrap(plain(label), WIDEST, font) for label in row_labels]
    lines = [line for label in beside for line in label.split("\n")]
    left = max((int(font.getlength(line)) for line in lines), default=0)
    left += 12 if row_labels else 0
    wrapped = [_wrap(plain(label), width, font) for label in column_labels]
    top = max((label.count("\n") + 1 for label in wrapped), default=0) * LINE
    top += 8 if column_labels else 0

    rows = -(-len(images) // columns)
    size = left + columns * (width + GAP), top + rows * (height + GAP)
    sheet = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        picture = to_picture(image).resize((width, height), Image.Resampling.BICUBIC)
        row, column = divmod(index, columns)
        sheet.paste(picture, (left + column * (width + GAP), top + row * (height + GAP)))

    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(beside):
        middle = top + row * (height + GAP) + height // 2
        place = 6, middle - 8 - label.count("\n") * LINE // 2
        draw.multiline_text(place, label, "black", font, spacing=2)
    for column, label in enumerate(wrapped):
        place = left + column * (width + GAP) + 4, 4
        draw.multiline_text(place, label, "black", font, spacing=2)
    return sheet


def with_strengths(erased: Mapping[str, float]) -> str:
    """Return what is erased, with strengths other than 1: ``Noto 0.5, Twemoji``."""
    return ", ".join(
        name if strength == 1 else f"{name} {strength:g}" for name, strength in erased.items()
    )


def erased_in_words(erased: Mapping[str, float]) -> str:
    """Return what is erased, for a label: ``Noto 0.5, Twemoji erased``; ``base`` for nothing."""
    return f"{with_strengths(erased)} erased" if erased else "base"


def comparison(
    states: Mapping[str, torch.Tensor], prompts: Sequence[str], seeds: Sequence[int]
) -> Image.Image:
    """Lay out what several states of a model draw: a row for each seed and state.

    Args:
        states: by what is erased, ``(seeds * prompts, 3, h, w)`` pictures, seed by seed.
        prompts: one column each.
        seeds: a group of rows each.
    """
    import torch

    by_seed = []
    for pictures in states.values():
        by_seed.append(pictures.unflatten(0, (len(seeds), len(prompts))))
    pictures = torch.stack(by_seed, dim=1).flatten(0, 2)

    labels = []
    for seed in seeds:
        labels += [state if len(seeds) == 1 else f"{state}, seed {seed}" for state in states]
    return contact_sheet(pictures, len(prompts), row_labels=labels, column_labels=prompts)


def difference_map(one: torch.Tensor, other: torch.Tensor) -> Image.Image:
    """Show where two pictures ``(3, h, w)`` in [0, 1] differ, by the mean over the channels.

    Black where they are equal to the last bit that is shown, white where they differ by half.
    """
    difference = (one - other).abs().mean(0, keepdim=True)

    return to_picture((2 * difference).expand(3, -1, -1))


def matrix_picture(table: Mapping[str, Mapping[str, float]], title: str) -> Image.Image:
    """Draw a heatmap with its numbers, rows and columns as the table has them.

    Raises:
        MissingExtra: without matplotlib (``multierase[plots]``).
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(next(iter(table.values()), {}))
    values = [[row[column] for column in columns] for row in table.values()]
    size = 2.5 + 0.7 * max(len(columns), 5), 2 + 0.5 * len(values)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="magma_r", vmin=0, vmax=1, aspect="auto")

    names = [_literal(column) for column in columns]
    axes.set_xticks(range(len(columns)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(values)), [_literal(row) for row in table])
    # Matplotlib's own wrapping does not see the figure's edges before it is drawn.
    letters = int(size[0] * TITLE_LETTERS)
    figure.suptitle("\n".join(map(_literal, textwrap.wrap(plain(title), letters))), fontsize=10)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            color = "white" if value > 0.5 else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=color)

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def require_matplotlib() -> None:
    """Raise ``MissingExtra`` unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "a matrix as a picture needs matplotlib: pip install 'multierase[plots]'"
        ) from error


def require_picture_name(path: str | Path) -> str:
    """Return the format that a file name says. Raises ``ValueError`` for one that is no picture."""
    suffix = Path(path).suffix.lower()
    formats = Image.registered_extensions()
    if suffix not in formats or formats[suffix] not in Image.SAVE:
        raise ValueError(
            f"cannot write a picture as {Path(path).name!r}: give a name that ends in .png, .jpg "
            "or .webp"
        )

    return formats[suffix]


def encoded(picture: Image.Image, format: str = "PNG") -> bytes:
    """Return a picture as the bytes of a file."""
    data = io.BytesIO()
    picture.save(data, format)

    return data.getvalue()


def shrunk(png: bytes, side: int) -> bytes:
    """Return a PNG that is at most ``side`` pixels wide and high; a smaller one stays."""
    with Image.open(io.BytesIO(png)) as picture:
        if max(picture.size) <= side:
            return png
        picture.thumbnail((side, side))
        return encoded(picture)


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture whole or not at all, in the format that the file name says.

    Raises:
        ValueError: for a file name without a picture format's suffix.
        WriteError: if the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    data = encoded(picture, require_picture_name(path))

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _literal(name: str) -> str:
    """Return a name as it is written: a dollar sign does not begin a formula."""
    return plain(name).replace("$", r"\$")


def _wrap(label: str, width: int, font: Font) -> str:
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 8:
            lines.append(word)
        else:
            lines[-1] = longer

    return "\n".join(lines)
