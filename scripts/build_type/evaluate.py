"""Ask the assembled base for every pair on fresh seeds, and let the judge say what came.

    python scripts/build_type/evaluate.py --work build/type --typefaces 12
    python scripts/build_type/evaluate.py --work build/type

Reads ``base/`` and ``judge.safetensors`` from the work folder; writes ``evaluation.json``, two
sheets and, with the judge's report, the model card ``base/README.md``. The whole takes half an hour
on one core (two evaluations for each of 25 steps and 4,320 pictures); pictures go to
``evaluation-pictures.pt`` as they are made, from where it goes on. ``--every 4`` asks for every
fourth glyph of each typeface. ``--rows 256`` asks with as many rows of zeros in T5's place as plain
diffusers does: four times the cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from captions import UNSEEN, fill
from glyphs import GLYPHS, Renders, load_renders
from sources import HERE, load_sources

from multierase import Model, SamplingSettings, load_base
from multierase.evaluation.judges.embedded import EmbeddedJudge
from multierase.files import digest_file
from multierase.generate import generate
from multierase.pictures import contact_sheet, save_picture

FORM = "{the_glyph} in {typeface}"
PART = 256  # pictures between two writes
SHEET = (7, 16)  # glyphs and typefaces
BARE = 4  # pictures of each bare name

Pair = tuple[str, str]


def digest_of(folder: Path) -> str:
    """Return a digest of a base's weights and of its scheduler."""
    files = [*folder.rglob("*.safetensors"), *folder.rglob("scheduler_config.json")]

    return "-".join(digest_file(file, length=12) for file in sorted(files))


def made(
    model: Model,
    prompts: Sequence[str],
    seed: int,
    settings: SamplingSettings,
    keep: tuple[Path, str] | None = None,
) -> torch.Tensor:
    """Make the pictures, a part at a time.

    Args:
        keep: where to keep those that are made, and what they were made with. What is there already
            is used if it was asked for in the same way.
    """
    kept: list[torch.Tensor] = []
    if keep:
        path, how = keep
        asked = {"prompts": list(prompts), "seed": seed, "how": how}
        stored = torch.load(path, weights_only=True) if path.exists() else {"asked": None}
        kept = [stored["pictures"]] if stored["asked"] == asked else []

    done = sum(len(part) for part in kept)
    for start in range(done, len(prompts), PART):
        part = list(prompts[start : start + PART])
        seeds = list(range(seed + start, seed + start + len(part)))
        kept.append(generate(model, part, seeds, settings, progress=True))
        if keep:
            torch.save({"asked": asked, "pictures": torch.cat(kept)}, path)
    return torch.cat(kept)


def pairs_in(judge: EmbeddedJudge, images: torch.Tensor) -> list[Pair]:
    """Return typeface and glyph of ``(b, 3, 64, 64)`` pictures in [0, 1]."""
    seen = judge(images).seen

    return list(zip(seen["typeface"], seen["glyph"], strict=True))


def share(right: Sequence[bool]) -> float:
    """Return a share, 0 of nothing."""
    return round(sum(right) / len(right), 4) if right else 0.0


def shares(seen: Sequence[Pair], asked: Sequence[Pair]) -> dict[str, float | int]:
    """Return the shares of right typefaces and of right glyphs."""
    return {
        "pictures": len(asked),
        "typeface": share([one[0] == other[0] for one, other in zip(seen, asked, strict=True)]),
        "glyph": share([one[1] == other[1] for one, other in zip(seen, asked, strict=True)]),
    }


def by_place(seen: Sequence[Pair], asked: Sequence[Pair], place: int) -> dict[str, float]:
    """Return the share that is right for each typeface (0) or each glyph (1), the worst first."""
    right: dict[str, list[bool]] = {}
    for one, other in zip(seen, asked, strict=True):
        right.setdefault(other[place], []).append(one[place] == other[place])

    found = {name: share(each) for name, each in right.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def named(
    model: Model, judge: EmbeddedJudge, renders: Renders, settings: SamplingSettings, args
) -> tuple[dict, torch.Tensor]:
    """Ask for every pair; return the report, and the pictures ``(typeface, glyph, ...)``."""
    glyphs = GLYPHS[:: args.every]
    asked = [(typeface, glyph) for typeface in renders.typefaces for glyph in glyphs]
    prompts = [fill((FORM,), glyph, typeface)[0] for typeface, glyph in asked]
    how = f"{settings}, {args.rows} rows, {digest_of(args.work / 'base')}"
    keep = args.work / "evaluation-pictures.pt", how
    images = made(model, prompts, args.seed, settings, keep)
    seen = pairs_in(judge, images)

    places = load_renders(args.work)
    held_out = places.held_out()
    unseen = []
    for place, (typeface, glyph) in enumerate(asked):
        if held_out[places.typefaces.index(typeface), GLYPHS.index(glyph)]:
            unseen.append(place)

    report = shares(seen, asked)
    report["held_out_pairs"] = shares([seen[i] for i in unseen], [asked[i] for i in unseen])
    report["by_typeface"] = by_place(seen, asked, 0)
    report["by_glyph"] = by_place(seen, asked, 1)
    report["glyphs"] = glyphs
    return report, images.unflatten(0, (len(renders.typefaces), len(glyphs)))


def others(
    model: Model, judge: EmbeddedJudge, renders: Renders, settings: SamplingSettings, args
) -> dict[str, dict]:
    """Ask in forms that were never seen, and by bare names and bare glyphs."""
    pairs = []
    for place, typeface in enumerate(renders.typefaces):
        for step in range(3):
            pairs.append((typeface, GLYPHS[(7 * place + 12 * step) % len(GLYPHS)]))
    prompts = []
    for place, (typeface, glyph) in enumerate(pairs):
        prompts.append(fill((UNSEEN[place % len(UNSEEN)],), glyph, typeface)[0])
    report = {"unseen_forms": shares(pairs_in(judge, made(model, prompts, 1, settings)), pairs)}

    names = [typeface for typeface in renders.typefaces for _ in range(BARE)]
    seen = pairs_in(judge, made(model, names, 2, settings))
    right = [one[0] == name for one, name in zip(seen, names, strict=True)]
    report["bare_names"] = {"pictures": len(names), "typeface": share(right)}

    letters = [glyph for glyph in GLYPHS for _ in range(BARE)]
    prompts = [fill(("{the_glyph}",), glyph, "")[0] for glyph in letters]
    seen = pairs_in(judge, made(model, prompts, 3, settings))
    right = [one[1] == glyph for one, glyph in zip(seen, letters, strict=True)]
    report["bare_glyphs"] = {
        "pictures": len(letters),
        "glyph": share(right),
        "typefaces_seen": len({one[0] for one in seen}),
    }
    return report


def sheets(images: torch.Tensor, renders: Renders, glyphs: Sequence[str], work: Path) -> None:
    """Write two sheets: the first typefaces, and the next."""
    columns, rows = SHEET
    step = max(1, len(glyphs) // columns)
    places = list(range(0, len(glyphs), step))[:columns]
    labelled = [glyphs[place] for place in places]
    for number in range(2):
        chosen = list(range(number * rows, min((number + 1) * rows, len(images))))
        if chosen:
            labels = [renders.typefaces[place] for place in chosen]
            shown = images[chosen][:, places].flatten(0, 1)
            page = contact_sheet(shown, len(places), row_labels=labels, column_labels=labelled)
            save_picture(page, work / f"sheet-{number}.png")


def card(report: dict, work: Path) -> str:
    """Fill the model card's template with what was measured."""
    rows, sources = [], {source.name: source for source in load_sources()}
    for name in report["by_typeface_in_order"]:
        source, right = sources[name], report["by_typeface"][name]
        package = f"@fontsource/{source.package} {source.version}"
        rows.append(f"| {name} | {right:.0%} | {package} | {source.copyright} |")
    judge = json.loads((work / "judge.json").read_text())
    template = (HERE / "model_card.md").read_text()

    return template.format(
        count=len(rows),
        rows="\n".join(rows),
        asked=report,
        glyphs=len(report["glyphs"]),
        steps=report["sampling"]["steps"],
        guidance=report["sampling"]["guidance_scale"],
        judge=judge,
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/type"))
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--typefaces", type=int, help="only so many, for a quick look")
    parser.add_argument("--every", type=int, default=1, help="ask for every so many-th glyph")
    parser.add_argument("--rows", type=int, default=1, help="rows of zeros in T5's place")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")

    return parser.parse_args()


def main() -> None:
    args = parsed()
    torch.set_num_threads(args.threads)
    renders = load_renders(args.work)
    if args.typefaces:
        step = max(1, len(renders.typefaces) // args.typefaces)
        renders = renders.only(renders.typefaces[::step][: args.typefaces])
    model = load_base(args.work / "base", device=args.device, t5_length=args.rows)
    judge = EmbeddedJudge.from_file(args.work / "judge.safetensors", "type")
    settings = SamplingSettings()

    report, images = named(model, judge, renders, settings, args)
    report |= others(model, judge, renders, settings, args)
    report["sampling"] = {
        "steps": settings.inference_steps,
        "guidance_scale": settings.guidance_scale,
        "rows": args.rows,
    }
    report["by_typeface_in_order"] = renders.typefaces
    sheets(images, renders, report["glyphs"], args.work)
    (args.work / "evaluation.json").write_text(json.dumps(report, indent=1, ensure_ascii=False))
    if not args.typefaces:
        (args.work / "base" / "README.md").write_text(card(report, args.work), "utf-8")
    print(json.dumps(report, ensure_ascii=False))


if __name__ == "__main__":
    main()
