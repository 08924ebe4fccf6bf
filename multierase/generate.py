"""Seeded pictures from a base, whatever its composer has switched off."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from multierase.base import Base
from multierase.library import replacing


@dataclass(frozen=True)
class SamplingSettings:
    """How pictures are made.

    Args:
        inference_steps: denoising steps of the checkpoint's own scheduler.
        guidance_scale: classifier-free guidance; 1 or less is none.
        batch_size: pictures at a time.
    """

    inference_steps: int = 25
    guidance_scale: float = 3.0
    batch_size: int = 64

    def __post_init__(self):
        if self.inference_steps < 1 or self.batch_size < 1:
            raise ValueError("sampling settings: inference_steps and batch_size must be 1 or more")


Encoded = tuple[torch.Tensor, torch.Tensor | None]  # (n, l, d) of the prompts, and of the empty one for guidance


def encode(base: Base, prompts: Sequence[str], settings: SamplingSettings) -> Encoded:
    """Prompts as the pipeline itself encodes them, for ``generate``: to the bit, where its batches are these."""
    with torch.no_grad():
        text, empty = base.pipeline.encode_prompt(list(prompts), base.device, 1, settings.guidance_scale > 1)
    return text, empty


def generate(
    base: Base,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingSettings | None = None,
    *,
    encoded: Encoded | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """One picture for each prompt and seed, as plain diffusers would make it.

    A picture depends on its own prompt and seed alone, whatever else is in the call: each has its own generator.

    Args:
        prompts, seeds: of equal length.
        encoded: the prompts by ``encode``, where they are asked for again and again.

    Returns:
        ``(n, 3, height, width)`` float32 in [0, 1], on the CPU.
    """
    settings = settings or SamplingSettings()
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed a prompt")
    for prompt in prompts:
        base.text.tokens(prompt)  # warns of a prompt too long
    batches = []
    with tqdm(total=len(prompts), desc="pictures", disable=not progress) as bar:
        for start in range(0, len(prompts), settings.batch_size):
            part = slice(start, start + settings.batch_size)
            text = {"prompt": list(prompts[part])}
            if encoded is not None:
                names = ("prompt_embeds", "negative_prompt_embeds")
                text = {name: e[part] for name, e in zip(names, encoded, strict=True) if e is not None}
            batches.append(
                base.pipeline(
                    **text,
                    num_inference_steps=settings.inference_steps,
                    guidance_scale=settings.guidance_scale,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
                    output_type="pt",
                ).images.float().cpu()
            )  # fmt: skip
            bar.update(len(prompts[part]))
    return torch.cat(batches)


def to_picture(image: torch.Tensor) -> Image.Image:
    """Of ``(3, h, w)`` in [0, 1]."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def contact_sheet(
    images: torch.Tensor, columns: int, *, row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Image.Image:
    """``(n, 3, h, w)`` pictures in [0, 1], row by row, with labels; small pictures are shown twice as large."""
    scale = 2 if images.shape[-1] < 128 else 1
    height, width = (side * scale for side in images.shape[-2:])
    font = ImageFont.load_default(14)
    gap = 4
    left = max((int(font.getlength(label)) for label in row_labels), default=0) + (12 if row_labels else 0)
    wrapped = [_wrap(label, width, font) for label in column_labels]
    top = max((label.count("\n") + 1 for label in wrapped), default=0) * 17 + (8 if column_labels else 0)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (left + columns * (width + gap), top + rows * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        picture = to_picture(image).resize((width, height), Image.Resampling.BICUBIC)
        row, column = divmod(index, columns)
        sheet.paste(picture, (left + column * (width + gap), top + row * (height + gap)))
    for row, label in enumerate(row_labels):
        draw.text((6, top + row * (height + gap) + height // 2 - 8), label, "black", font)
    for column, label in enumerate(wrapped):
        draw.multiline_text((left + column * (width + gap) + 4, 4), label, "black", font, spacing=2)
    return sheet


def _wrap(label: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 8:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def matrix_picture(table: Mapping[str, Mapping[str, float]], title: str) -> Image.Image:
    """A heatmap with its numbers, rows and columns as the table has them. Needs matplotlib (``multierase[plots]``)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("a matrix as a picture needs matplotlib: pip install 'multierase[plots]'") from error
    columns = list(next(iter(table.values()), {}))
    values = [[row[column] for column in columns] for row in table.values()]
    figure = Figure(figsize=(2.5 + 0.7 * len(columns), 2 + 0.5 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="magma_r", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(values)), list(table))
    axes.set_title(title)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "black")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture whole or not at all, in the format that the file name says."""
    path = Path(path)
    formats = Image.registered_extensions()
    if path.suffix.lower() not in formats:
        raise ValueError(f"cannot write a picture as {path.name!r}: give a name that ends in .png, .jpg or .webp")
    data = io.BytesIO()
    picture.save(data, formats[path.suffix.lower()])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data.getvalue())
