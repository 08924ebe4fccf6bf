"""Put the trained parts together as an ordinary diffusers folder.

    python scripts/build_type/assemble.py --work build/type

Writes ``base/`` in the work folder, in half precision, with ``prompts.csv`` as the embedded base
``emoji`` has it. The model card is written there by ``evaluate.py``, which measures what it says.
Then ``--out multierase/assets/type`` for the package: with the card, beside the kinds that are
written by hand, and with the judge as ``type-judge.safetensors``. Seconds.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import torch
from captions import BOTH, GLYPH, TYPEFACE, fill
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import JointAttnProcessor2_0
from glyphs import GLYPHS, load_renders
from parts import SHIFT, pipeline_of

from multierase.models.model import KNOWN_PROMPTS

COLUMNS = ("prompt", "typeface", "glyph")
FORMS_OF_BOTH = (BOTH[0], BOTH[2], BOTH[7])


def known_prompts(typefaces: list[str]) -> list[tuple[str, str, str]]:
    """Return what the base is asked, for erasures to keep: prompt, typeface, glyph.

    Every form about a typeface or a glyph alone, and of both three forms with a few glyphs each.
    """
    rows = []
    for typeface in typefaces:
        rows += [(prompt, typeface, "") for prompt in fill(TYPEFACE, "", typeface)]
    for glyph in GLYPHS:
        rows += [(prompt, "", glyph) for prompt in fill(GLYPH, glyph, "")]
    for place, typeface in enumerate(typefaces):
        for glyph in GLYPHS[place % 9 :: 9]:
            # The first way to call a glyph of each form is enough.
            prompts = [fill((form,), glyph, typeface)[0] for form in FORMS_OF_BOTH]
            rows += [(prompt, typeface, glyph) for prompt in prompts]

    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/type"))
    parser.add_argument("--out", type=Path, help="by default base/ in the work folder")
    parser.add_argument("--shift", type=float, default=SHIFT, help="of the sampler towards noise")
    args = parser.parse_args()
    out = args.out or args.work / "base"

    transformer = SD3Transformer2DModel.from_pretrained(args.work / "transformer").eval()
    transformer.set_attn_processor(JointAttnProcessor2_0())
    pipeline = pipeline_of(args.work, transformer, args.shift)

    pipeline.to(dtype=torch.float16).save_pretrained(out)
    with (out / KNOWN_PROMPTS).open("w", newline="", encoding="utf-8") as file:
        rows = known_prompts(load_renders(args.work).typefaces)
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    if args.out:
        shutil.copy(args.work / "judge.safetensors", out.parent / "type-judge.safetensors")
        shutil.copy(args.work / "base" / "README.md", out)

    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
