"""Erase some artists, then judge every combination of them: to be copied and edited.

    python scripts/combinatorial_evaluation.py --out combinations/ Twemoji Noto Firefox

Each artist becomes one file in ``<out>/lib``; an artist already there is not erased again. Every
subset of them is judged on the suite; an interrupted run goes on with the same command. Look at
``<out>/report/index.html``; ``<out>/sweep.db`` is the SQLite database of every verdict. The last
line names the set that disturbed the others most.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from multierase import EraseSettings, Workspace
from multierase.evaluation.concept_sets import concept_sets
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.report.files import write_report
from multierase.evaluation.report.rows import Rows, name_of
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artists", nargs="+")
    parser.add_argument("--base", default="emoji")
    parser.add_argument("--suite", default="studios")
    parser.add_argument("--out", type=Path, default=Path("combinations"))
    parser.add_argument("--workers", type=int, help="processes; one per core by default")
    parser.add_argument("--seed", type=int, default=0)

    return parser.parse_args()


def worst_of(rows: list[dict]) -> dict | None:
    """Return the row in which the other concepts kept least; ``None`` if there is none."""
    disturbed = [row for row in rows if row["erased_concepts"] and row["kept"]["count"]]

    return min(disturbed, key=lambda row: row["kept_relative"], default=None)


def main() -> None:
    arguments = parsed()
    folder, database = arguments.out / "lib", arguments.out / "sweep.db"
    workspace = Workspace(folder, arguments.base, create=True)
    missing = [artist for artist in arguments.artists if artist not in workspace.library]
    if missing:
        workspace.train(*missing, settings=EraseSettings(seed=arguments.seed), progress=True)

    experiment = Experiment(arguments.suite, library=str(folder), base=arguments.base)
    stages = concept_sets("subsets", arguments.artists)
    executor = Processes(arguments.workers)
    with sweep(experiment, stages, database, executor=executor, progress=True) as store:
        worst = worst_of(Rows(store).rows())

    page, *_ = write_report([database], arguments.out / "report").files
    print(page)
    if worst is not None:
        kept = f"{worst['kept_relative']:.1%} of the base's share"
        print(f"{name_of(worst)} erased: the others keep {kept}")


if __name__ == "__main__":  # workers import this file
    main()
