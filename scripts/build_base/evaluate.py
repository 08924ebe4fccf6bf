"""Measure the assembled base with its judge, and write its model card.

    python scripts/build_base/evaluate.py --work build/

Nine studios x all subjects at default guidance and steps with seeds never used in training: is the studio, is the
subject, what was asked for? Then prompts that name no studio: which studio do they get? Then bare names. Writes
``build/evaluation.json``, the contact sheets ``build/sheet-*.png`` and ``multierase/assets/emoji/README.md``. Five
minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from renders import load_renders

from multierase.base import load_base
from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS, fill
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import SamplingSettings, contact_sheet, generate, save_picture

ASSETS = Path(__file__).parents[2] / "multierase" / "assets"


def share(right: list[bool]) -> float:
    return round(sum(right) / len(right), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build"))
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--subjects", type=int, default=len(EMOJI_SUBJECTS), help="only so many, for a quick look")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base, judge, subjects = load_base("emoji", device="cpu"), EmojiJudge.load(), EMOJI_SUBJECTS[: args.subjects]
    held_out = load_renders(args.work).held_out()
    pairs = [(studio, subject) for studio in EMOJI_STUDIOS for subject in subjects]
    prompts = [fill(("{a_subject} by {studio}",), *pair)[0] for pair in pairs]
    images = generate(base, prompts, list(range(args.seed, args.seed + len(pairs))), progress=True)
    verdict = judge(images)
    studio_right = [seen == pair[0] for seen, pair in zip(verdict.seen["studio"], pairs, strict=True)]
    subject_right = [seen == pair[1] for seen, pair in zip(verdict.seen["subject"], pairs, strict=True)]
    unseen = [held_out[EMOJI_STUDIOS.index(studio), EMOJI_SUBJECTS.index(subject)].item() for studio, subject in pairs]
    report = {
        "pictures": len(pairs),
        "sampling": {"steps": SamplingSettings().inference_steps, "guidance_scale": SamplingSettings().guidance_scale},
        "studio": share(studio_right),
        "subject": share(subject_right),
        "studio_by_studio": {
            studio: share([r for r, p in zip(studio_right, pairs, strict=True) if p[0] == studio])
            for studio in EMOJI_STUDIOS
        },
        "held_out_pairs": {
            "pictures": sum(unseen),
            "studio": share([r for r, u in zip(studio_right, unseen, strict=True) if u] or [False]),
            "subject": share([r for r, u in zip(subject_right, unseen, strict=True) if u] or [False]),
        },
    }
    for start, name in ((0, "first"), (len(subjects) // 2, "second")):
        half = range(start, start + len(subjects) // 2, 2)
        chosen = [images[row * len(subjects) + column] for row in range(len(EMOJI_STUDIOS)) for column in half]
        labels = [subjects[column] for column in half]
        sheet = contact_sheet(torch.stack(chosen), len(labels), row_labels=EMOJI_STUDIOS, column_labels=labels)
        save_picture(sheet, args.work / f"sheet-{name}.png")

    plain = [fill(("{a_subject}",), "", subject)[0] for subject in subjects for _ in range(3)]
    free = generate(base, plain, list(range(args.seed, args.seed + len(plain))), progress=True)
    seen = judge(free)
    counts = Counter(seen.seen["studio"])
    report["no_studio_named"] = {
        "pictures": len(plain),
        "share_by_studio": {studio: round(counts[studio] / len(plain), 4) for studio in EMOJI_STUDIOS},
        "subject": share([s == subjects[i // 3] for i, s in enumerate(seen.seen["subject"])]),
    }
    save_picture(contact_sheet(free[: 12 * 6], 12), args.work / "sheet-no-studio.png")

    names = [studio for studio in EMOJI_STUDIOS for _ in range(16)]
    bare = judge(generate(base, names, list(range(args.seed, args.seed + len(names))), progress=True))
    report["bare_name"] = {
        "pictures": len(names),
        "studio": share([a == b for a, b in zip(bare.seen["studio"], names, strict=True)]),
    }
    report["judge"] = json.loads((args.work / "judge.json").read_text())
    (args.work / "evaluation.json").write_text(json.dumps(report, indent=1))
    (ASSETS / "emoji" / "README.md").write_text(card(report))
    print(json.dumps(report))


def card(report: dict) -> str:
    judge = report["judge"]
    by_studio = "\n".join(f"| {studio} | {value:.1%} |" for studio, value in report["studio_by_studio"].items())
    spread = ", ".join(f"{s} {v:.0%}" for s, v in report["no_studio_named"]["share_by_studio"].items())
    held = report["held_out_pairs"]
    template = (Path(__file__).parent / "model_card.md").read_text()
    return template.format(
        pictures=report["pictures"], steps=report["sampling"]["steps"], guidance=report["sampling"]["guidance_scale"],
        studio=f"{report['studio']:.1%}", subject=f"{report['subject']:.1%}", by_studio=by_studio, spread=spread,
        free_pictures=report["no_studio_named"]["pictures"], free_subject=f"{report['no_studio_named']['subject']:.1%}",
        held_pictures=held["pictures"], held_studio=f"{held['studio']:.1%}", held_subject=f"{held['subject']:.1%}",
        bare=f"{report['bare_name']['studio']:.1%}", bare_pictures=report["bare_name"]["pictures"],
        judge_subjects=judge["subjects"]["renders"],
        judge_subjects_studio=f"{judge['subjects']['clean'][0]:.1%}",
        judge_subjects_hard=f"{judge['subjects']['augmented'][0]:.1%}",
        judge_smaller=judge["smaller"]["renders"], judge_smaller_studio=f"{judge['smaller']['clean'][0]:.1%}",
        judge_smaller_subject=f"{judge['smaller']['clean'][1]:.1%}",
        judge_train_studio=f"{judge['train']['clean'][0]:.1%}", judge_train_subject=f"{judge['train']['clean'][1]:.1%}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
