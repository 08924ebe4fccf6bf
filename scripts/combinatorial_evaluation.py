"""Erase some artists, then judge every combination of them: what a user copies and edits.

    python scripts/combinatorial_evaluation.py --out combinations/ Twemoji Noto Firefox

Each artist becomes one file in ``<out>/lib``; an artist already there is not erased again. Every subset of them is
judged on the suite; go on after an interruption with the same command. ``<out>/report/index.html`` is to be looked at,
``<out>/sweep.db`` is the SQLite database of every verdict, and the last line is the set that disturbed the others most.
"""

import argparse
from pathlib import Path

from multierase import EraseSettings, Library, erase_several, load_base
from multierase.evaluation.evaluator import Subject
from multierase.evaluation.executors import Processes
from multierase.evaluation.page import write_report
from multierase.evaluation.plans import plan
from multierase.evaluation.report import Results
from multierase.evaluation.sweep import sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artists", nargs="+")
    parser.add_argument("--base", default="emoji")
    parser.add_argument("--suite", default="studios")
    parser.add_argument("--out", type=Path, default=Path("combinations"))
    parser.add_argument("--workers", type=int, help="processes; one a core by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    library = Library(arguments.out / "lib", create=True)
    missing = [artist for artist in arguments.artists if artist not in library]
    if missing:
        for increment in erase_several(
            load_base(arguments.base), missing, EraseSettings(seed=arguments.seed), progress=True
        ):
            library.save(increment)

    subject = Subject(library=str(library.folder), suite=arguments.suite, base=arguments.base)
    moments = plan("subsets", arguments.artists)
    executor = Processes(arguments.workers)
    database = sweep(subject, moments, arguments.out / "sweep.db", executor=executor, progress=True)
    page, *_ = write_report([database], arguments.out / "report")
    rows = [row for row in Results(database).rows() if row["erased_concepts"] and row["kept"]["count"]]
    worst = min(rows, key=lambda row: row["kept_relative"], default=None)
    print(page)
    if worst:
        print(
            " + ".join(worst["erased_concepts"]),
            f"off: the others keep {worst['kept_relative']:.1%} of the base's share",
        )


if __name__ == "__main__":  # workers import this file
    main()
