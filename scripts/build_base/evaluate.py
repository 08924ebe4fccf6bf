"""Measure the assembled base with its judge, and write its model card.

    python scripts/build_base/evaluate.py --work build/

Nine studios x all subjects at default guidance and steps with seeds never used in training: are the
studio and the subject what was asked for? Then prompts that name no studio: which studio do they
get? Then bare names. Writes ``build/evaluation.json``, the contact sheets ``build/sheet-*.png`` and
``multierase/assets/emoji/README.md``. Five minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from renders import load_renders

from multierase import Model, SamplingSettings, load_base
from multierase.emoji import STUDIOS, SUBJECTS, fill
from multierase.evaluation.judges.embedded import EmbeddedJudge
from multierase.generate import generate
from multierase.pictures import contact_sheet, save_picture

ASSETS = Path(__file__).parents[2] / "multierase" / "assets"
TEMPLATE = ("{a_subject} by {studio}",)
WITHOUT_STUDIO = ("{a_subject}",)
PLAIN_PICTURES = 3  # of each subject without a studio
BARE_PICTURES = 16  # of each studio's bare name
SHEET = (12, 6)  # columns and rows of the sheet without a studio


def share(right: Sequence[bool]) -> float:
    """Return a share, 0 of nothing."""
    return round(sum(right) / len(right), 4) if right else 0.0


class Evaluation:
    """The base and its judge; every picture has a seed of its own."""

    def __init__(self, model: Model, args: argparse.Namespace):
        self.model, self.judge, self.args = model, EmbeddedJudge.load("emoji"), args
        self.subjects = SUBJECTS[: args.subjects]

    def pictures(self, prompts: Sequence[str]) -> torch.Tensor:
        seeds = range(self.args.seed, self.args.seed + len(prompts))

        return generate(self.model, prompts, list(seeds), progress=True)

    def named(self) -> dict:
        """Ask for every studio and subject, and lay out what comes."""
        pairs = [(studio, subject) for studio in STUDIOS for subject in self.subjects]
        images = self.pictures([fill(TEMPLATE, *pair)[0] for pair in pairs])
        self._sheets(images)

        seen = self.judge(images).seen
        studio_right = [a == pair[0] for a, pair in zip(seen["studio"], pairs, strict=True)]
        subject_right = [a == pair[1] for a, pair in zip(seen["subject"], pairs, strict=True)]
        by_studio = {}
        for place, studio in enumerate(STUDIOS):
            own = slice(place * len(self.subjects), (place + 1) * len(self.subjects))
            by_studio[studio] = share(studio_right[own])

        sampling = SamplingSettings()
        return {
            "pictures": len(pairs),
            "sampling": {
                "steps": sampling.inference_steps,
                "guidance_scale": sampling.guidance_scale,
            },
            "studio": share(studio_right),
            "subject": share(subject_right),
            "studio_by_studio": by_studio,
            "held_out_pairs": self._held_out(pairs, studio_right, subject_right),
        }

    def _held_out(
        self,
        pairs: Sequence[tuple[str, str]],
        studio_right: Sequence[bool],
        subject_right: Sequence[bool],
    ) -> dict:
        held_out = load_renders(self.args.work).held_out()
        unseen = []
        for place, (studio, subject) in enumerate(pairs):
            if held_out[STUDIOS.index(studio), SUBJECTS.index(subject)]:
                unseen.append(place)

        return {
            "pictures": len(unseen),
            "studio": share([studio_right[place] for place in unseen]),
            "subject": share([subject_right[place] for place in unseen]),
        }

    def _sheets(self, images: torch.Tensor) -> None:
        count = len(self.subjects)
        for start, name in ((0, "first"), (count // 2, "second")):
            columns = range(start, start + count // 2, 2)
            chosen = []
            for row in range(len(STUDIOS)):
                chosen += [images[row * count + column] for column in columns]

            labels = [self.subjects[column] for column in columns]
            sheet = contact_sheet(
                torch.stack(chosen), len(labels), row_labels=STUDIOS, column_labels=labels
            )
            save_picture(sheet, self.args.work / f"sheet-{name}.png")

    def no_studio_named(self) -> dict:
        """Ask for every subject by nobody: whose drawings come?"""
        asked = [subject for subject in self.subjects for _ in range(PLAIN_PICTURES)]
        images = self.pictures([fill(WITHOUT_STUDIO, "", subject)[0] for subject in asked])
        columns, rows = SHEET
        sheet = contact_sheet(images[: columns * rows], columns)
        save_picture(sheet, self.args.work / "sheet-no-studio.png")

        seen = self.judge(images).seen
        counts = Counter(seen["studio"])
        spread = {studio: round(counts[studio] / len(asked), 4) for studio in STUDIOS}
        return {
            "pictures": len(asked),
            "share_by_studio": spread,
            "subject": share([a == b for a, b in zip(seen["subject"], asked, strict=True)]),
        }

    def bare_name(self) -> dict:
        """Ask for every studio by its name alone."""
        names = [studio for studio in STUDIOS for _ in range(BARE_PICTURES)]
        seen = self.judge(self.pictures(names)).seen["studio"]

        return {
            "pictures": len(names),
            "studio": share([a == b for a, b in zip(seen, names, strict=True)]),
        }


def card(report: dict) -> str:
    """Fill the model card's template with what was measured."""
    judge, held = report["judge"], report["held_out_pairs"]
    free, bare = report["no_studio_named"], report["bare_name"]
    by_studio = [f"| {name} | {value:.1%} |" for name, value in report["studio_by_studio"].items()]
    spread = [f"{name} {value:.0%}" for name, value in free["share_by_studio"].items()]

    template = (Path(__file__).parent / "model_card.md").read_text()
    return template.format(
        pictures=report["pictures"],
        steps=report["sampling"]["steps"],
        guidance=report["sampling"]["guidance_scale"],
        studio=f"{report['studio']:.1%}",
        subject=f"{report['subject']:.1%}",
        by_studio="\n".join(by_studio),
        spread=", ".join(spread),
        free_pictures=free["pictures"],
        free_subject=f"{free['subject']:.1%}",
        held_pictures=held["pictures"],
        held_studio=f"{held['studio']:.1%}",
        held_subject=f"{held['subject']:.1%}",
        bare=f"{bare['studio']:.1%}",
        bare_pictures=bare["pictures"],
        judge_subjects=judge["subjects"]["renders"],
        judge_subjects_studio=f"{judge['subjects']['clean'][0]:.1%}",
        judge_subjects_hard=f"{judge['subjects']['augmented'][0]:.1%}",
        judge_smaller=judge["smaller"]["renders"],
        judge_smaller_studio=f"{judge['smaller']['clean'][0]:.1%}",
        judge_smaller_subject=f"{judge['smaller']['clean'][1]:.1%}",
        judge_train_studio=f"{judge['train']['clean'][0]:.1%}",
        judge_train_subject=f"{judge['train']['clean'][1]:.1%}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build"))
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--subjects", type=int, default=len(SUBJECTS), help="only so many, for a quick look"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    evaluation = Evaluation(load_base("emoji", device="cpu"), args)
    report = evaluation.named()
    report["no_studio_named"] = evaluation.no_studio_named()
    report["bare_name"] = evaluation.bare_name()
    report["judge"] = json.loads((args.work / "judge.json").read_text())
    (args.work / "evaluation.json").write_text(json.dumps(report, indent=1))
    (ASSETS / "emoji" / "README.md").write_text(card(report))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
