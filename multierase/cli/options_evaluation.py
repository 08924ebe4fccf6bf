"""What the verbs that judge take: data, no work."""

from __future__ import annotations

from multierase.cli.flags import Option, one_of
from multierase.cli.option_groups import base, executors, keep_file, solve

CHANGING = ("increments", "uce")  # ways that change weights and need no more than their name


def _experiment() -> list[Option]:
    """What ``evaluate`` and ``sweep`` have in common."""
    from multierase.evaluation.experiment import Backbone
    from multierase.evaluation.suites import shipped_suites

    return [
        *base(),
        Option(
            "--library",
            "folder of increments; the other methods need none",
            type=str | None,
            metavar="FOLDER",
        ),
        Option("--peer", "judge a peer's pipeline folder or weights file", type=str | None),
        Option(
            "--suite",
            f"a YAML file, or one of {', '.join(shipped_suites())}; by default studios, and "
            "typefaces for the base 'type'",
            type=str | None,
        ),
        keep_file(),
        *solve(),
        Option("--inference_steps", "denoising steps; replaces the suite's", type=int | None),
        Option("--guidance_scale", "guidance; replaces the suite's", type=float | None),
        Option("--batch_size", "pictures at a time", type=int, default=64),
        Option(
            "--thumbnails",
            "how many cases to store thumbnails of; replaces the suite's",
            type=int | None,
        ),
        Option(
            "--prompts",
            "CSV with the prompts; replaces the suite's",
            type=str | None,
            metavar="FILE",
        ),
        Option(
            "--judge",
            "options of the judge, as in --judge.model FOLDER; replace the suite's",
            type=dict[str, str | float],
            default={},
        ),
        Option("--clip", "CLIP for the CLIP score: a folder or hub id", type=str | None),
        Option("--lpips", "backbone of LPIPS to the base's pictures", type=Backbone | None),
        Option(
            "--fid",
            "Inception's weights: compute standard FID with them",
            type=str | None,
            metavar="FILE",
        ),
        Option(
            "--reference",
            "real pictures, a folder or .npz, for one more Fréchet distance",
            type=str | None,
        ),
        *_attacks(),
    ]


def _attacks() -> list[Option]:
    from multierase.evaluation.attacks import ATTACKS, BudgetName

    return [
        Option(
            "--attack",
            "attacks on each erased concept; multierase attack describes them",
            type=one_of(tuple(ATTACKS)),
            several=True,
        ),
        Option(
            "--budget",
            "what an attack may spend: minutes on a CPU, or as published",
            type=BudgetName,
            default="quick",
        ),
        Option("--attack_cases", "how many of a concept's cases to attack", type=int, default=8),
        Option("--attack_seed", "seed of the attacks", type=int, default=0),
    ]


def _ways() -> list[str]:
    """The ways to erase that need no more than their name."""
    from multierase.evaluation.experiment import METHODS as ways

    return [way for way in ways if way != "peer"]  # a peer is given by --peer


def evaluate_options() -> list[Option]:
    return [
        Option("--erase", "concepts to erase", several=True, metavar="NAME"),
        Option(
            "--method",
            "ways to erase, several for one table; by default increments",
            type=one_of(_ways()),
            several=True,
        ),
        *_experiment(),
        Option(
            "--database",
            "keep the verdicts in this SQLite file; with one method only",
            type=str | None,
            metavar="FILE",
        ),
    ]


def attack_options() -> list[Option]:
    from multierase.evaluation.attacks import ATTACKS

    described = "; ".join(f"{name}: {attack.about}" for name, attack in ATTACKS.items())
    experiment = [option for option in _experiment() if option.key != "attack"]
    return [
        Option("concept", "the erased concept to attack"),
        Option("--beside", "concepts that are erased too", several=True, metavar="NAME"),
        Option(
            "--attack",
            f"by default all; {described}",
            type=one_of(tuple(ATTACKS)),
            several=True,
        ),
        Option("--method", "way to erase", type=one_of(CHANGING), default="increments"),
        *experiment,
        Option(
            "--database",
            "keep the verdicts in this SQLite file; the same command goes on where it stopped",
            type=str | None,
            metavar="FILE",
        ),
    ]


def sweep_options() -> list[Option]:
    from multierase.evaluation.concept_sets import Sets

    return [
        Option("--method", "way to erase", type=one_of(_ways()), default="increments"),
        *_experiment(),
        Option(
            "--database",
            "SQLite file of the verdicts; the same command goes on where it stopped",
            required=True,
            metavar="FILE",
        ),
        Option(
            "--by",
            "pictures, seen by the suite's judge, or predictions: the certificate's unseen "
            "sentences, without a picture",
            type=one_of(("pictures", "predictions")),
            default="pictures",
        ),
        Option(
            "--sentences",
            "unseen sentences about each concept, for --by predictions: at most those that its "
            "file names",
            type=int,
            default=6,
        ),
        Option("--sets", "which sets of concepts are erased", type=Sets, default="subsets"),
        Option(
            "--concepts",
            "concepts that may be erased; by default all of the library",
            several=True,
            metavar="NAME",
        ),
        Option("--count", "number of sets, for --sets random", type=int, default=0),
        Option("--seed", "seed of --sets random", type=int, default=0),
        Option(
            "--listed",
            "for --sets list: one set of concepts; give the flag once for each set",
            several=True,
            grouped=True,
            metavar="NAME",
        ),
        Option(
            "--events",
            "for --sets order: 'erase NAME' or 'restore NAME', one after another",
            several=True,
            metavar="EVENT",
        ),
        *executors("processes"),
    ]


def report_options() -> list[Option]:
    return [
        Option(
            "databases",
            "files of sweeps or evaluations, all in one table",
            several=True,
            default=[],
        ),
        Option(
            "--out",
            "folder for the page and its tables, which replace older ones",
            required=True,
            metavar="FOLDER",
        ),
        Option("--parquet", "write pictures.parquet too; needs pyarrow", switch=True),
    ]
