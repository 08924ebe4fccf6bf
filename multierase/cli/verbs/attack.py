"""The verb ``attack``: whether an erased concept can be had in other ways than by sentences."""

from __future__ import annotations

from jsonargparse import Namespace

from multierase.cli.console import counted, print_table, say
from multierase.cli.requests import announce, experiment_of
from multierase.errors import UsageError

NEEDED = 3  # columns that the table keeps however narrow


def run_attack(arguments: Namespace) -> dict:
    """Attack a concept as it is erased, restored, and on the base."""
    if not arguments.concept:
        raise UsageError("name the concept to attack: multierase attack Noto --library lib")
    experiment = experiment_of(arguments)

    announce(f"loading {arguments.base}")
    from multierase.evaluation.attacks.campaign import campaign

    return campaign(
        experiment,
        arguments.concept,
        arguments.beside,
        database=arguments.database,
        progress=True,
    )


def print_attack(report: dict) -> None:
    states = {"erased": "erased", "restored": "restored, unnamed", "base": "base, unnamed"}
    there = [state for state in states if state in next(iter(report["attacks"].values()))]
    columns = ["attack", "without it", *(states[state] for state in there), "evaluations a case"]

    rows, count = [], 0
    for name, row in report["attacks"].items():
        count = row["erased"]["broken"]["count"]
        cells = [_share(row["erased"]["before"])]
        cells += [_share(row[state]["broken"]) for state in there]
        rows.append((name, *cells, round(row["erased"]["evaluations"])))

    title = (
        f"{report['concept']} seen in {counted(count, 'attacked case')} (0 % best); erased: "
        f"{' + '.join(report['erased_concepts'])}; budget {report['budget']}; {report['judge']}"
    )
    print_table(title, columns, rows, needed=NEEDED)
    say(
        "where the concept is there, the attack's prompts do not name it: who finds it all the "
        "same shows what the attack can do"
    )
    if report["restored_is_base"]:
        say("restored, it is the base, bit for bit")


def _share(found: dict) -> str:
    return f"{found['value']:.0%} [{found['low']:.0%}, {found['high']:.0%}]"
