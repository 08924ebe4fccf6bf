"""What do other tools' files do once they are increments, as they are and projected?

    python benchmarks/peer_files.py --out benchmarks/results/peer_files.json

Two files of ESD and one of UCE, which erases three studios, were made on the embedded base by their
authors' own code. Each is imported as it is, and by each concept's part in its own directions
(``--project``). What remains of the erased and is kept of the others, relative to the base, with
each alone, with all of a tool's, and with two increments of our own in the same composition: by
the sum and by the joint solve. Strength 2 is what a joint solve takes from files that erase just so
far. Prints a table on stderr and one JSON object on stdout; an interrupted run goes on with the
same command. A quarter of an hour on one core.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import Results, begin, parser, quickened
from seeing import STUDIO, SUBJECT, Observer, Seen, every, kept_share, share

from multierase import EraseSettings, Model, SamplingSettings, Workspace
from multierase.composer import Solve
from multierase.emoji import STUDIOS, SUBJECTS
from multierase.interop.sources import ImportSettings

FILES = Path(__file__).parents[2] / "shared" / "peer-files"
THREE = ("Twemoji", "Noto", "Firefox")
OURS = ("Fluent Flat", "EmojiOne")
TEMPLATES = ("{a_subject} by {studio}", "{a_subject} in the style of {studio}")
SOLVES: tuple[Solve, ...] = ("sum", "joint")


@dataclass(frozen=True)
class Import:
    """One increment of a library: the file that it is imported from, and the concept."""

    file: str
    concept: str
    also: tuple[str, ...] = ()
    project: bool = False

    @property
    def erased(self) -> tuple[str, ...]:
        """The studios that its increment erases."""
        return (self.concept,) if self.project else (self.concept, *self.also)


def esd(project: bool) -> list[Import]:
    name = "esd-{0}-from-{0}-esdxstrict.safetensors"

    return [Import(name.format(studio), studio, project=project) for studio in THREE[:2]]


def uce(project: bool) -> list[Import]:
    """Return the whole file as one increment, or each concept's part of it."""
    name = f"uce-{'-'.join(THREE)}.safetensors"
    concepts = THREE if project else THREE[:1]

    found = []
    for concept in concepts:
        also = tuple(other for other in THREE if other != concept)
        found.append(Import(name, concept, also, project))
    return found


LIBRARIES = {
    "esd": esd(False),
    "esd, projected": esd(True),
    "uce": uce(False),
    "uce, projected": uce(True),
}


@dataclass(frozen=True)
class State:
    """One composition.

    Args:
        names: the increments that are applied.
        strength: of those that were imported.
    """

    library: str
    names: tuple[str, ...]
    solve: Solve
    strength: float = 1.0

    @property
    def key(self) -> str:
        strength = "" if self.strength == 1 else f", strength {self.strength:g}"

        return f"{self.library}: {' + '.join(self.names)}, {self.solve}{strength}"

    @property
    def erased(self) -> set[str]:
        """The studios that are erased."""
        imports = {one.concept: one.erased for one in LIBRARIES[self.library]}
        found: set[str] = set()
        for name in self.names:
            found |= set(imports.get(name, (name,)))

        return found


def states() -> Iterator[State]:
    """Yield every composition that is judged."""
    for solve in SOLVES:
        yield State("esd", OURS, solve)
    for library, imports in LIBRARIES.items():
        names = tuple(one.concept for one in imports)
        sets = [(name,) for name in names if library.startswith("esd") or name == THREE[0]]
        sets += [names] if len(names) > 1 else []
        for solve in SOLVES:
            for some in [*sets, (*names, *OURS)]:
                yield State(library, some, solve)
        for some in (names, (*names, *OURS)):
            yield State(library, some, "joint", 2.0)
        if library.startswith("esd"):  # on sentences it erases far less than UCE
            for solve in SOLVES:
                yield State(library, names, solve, 8.0)


class Peers:
    """The benchmark: its libraries, and what the judge sees.

    Args:
        files: folder of the peers' files.
        work: folder of the libraries, to go on from.
        quick: look at few pictures of few steps.
    """

    def __init__(self, model: Model, files: Path, work: Path, *, quick: bool):
        self.model, self.files, self.quick = model, files, quick
        self.work = work / "quick" if quick else work
        self.subjects = [*SUBJECTS[1::8], *SUBJECTS[2::8]][: 1 if quick else 16]
        self.observer = Observer(model, SamplingSettings(inference_steps=2 if quick else 12))
        self.pictures = every(TEMPLATES[: 1 if quick else 2], self.subjects)
        self.pristine = {name: weight.clone() for name, weight in model.parameters().items()}

    def workspace(self, library: str, solve: Solve | None = None) -> Workspace:
        folder = self.work / library.replace(", ", "-")

        return Workspace(folder, self.model, create=True, solve=solve)

    def build(self, library: str) -> dict:
        """Import a library's files and train our own; return what that took."""
        workspace = self.workspace(library)
        settings = quickened(EraseSettings()) if self.quick else EraseSettings()
        missing = [name for name in OURS if name not in workspace.library]
        if missing:
            workspace.train(*missing, settings=settings, progress=True)

        imported = {}
        for one in LIBRARIES[library]:
            asked = ImportSettings(also=one.also, project=one.project)
            made = workspace.import_file(self.files / one.file, one.concept, asked, overwrite=True)
            provenance, (step,) = made.increment.provenance, made.increment.history
            certificate = provenance.certificate
            imported[one.concept] = {
                "file": one.file,
                "size": step["size"],
                "effect_kept": step.get("effect_kept"),
                "seconds": provenance.cost.seconds,
                "evaluations": provenance.cost.evaluations,
                "kilobytes": round(made.path.stat().st_size / 1e3),
                "gone": round(certificate["gone"], 4),
                "degree": round(certificate["degree"], 4),
                "siblings": round(certificate["siblings"]["moved"], 4),
                "kept": round(certificate["kept"]["moved"], 4),
            }

        return imported

    def look(self) -> Seen:
        """Judge the model as it is composed now."""
        return self.observer.see(self.pictures, subjects=self.subjects)

    def judge(self, state: State, base: Seen) -> dict:
        """Compose a state, judge it, and restore everything."""
        workspace = self.workspace(state.library, state.solve)
        ours = dict.fromkeys(set(state.names) & set(OURS), 1.0)
        workspace.set({**dict.fromkeys(state.names, state.strength), **ours})
        deviations = workspace.composer.deviations()
        seen = self.look()
        workspace.restore_all()
        now = self.model.parameters()
        exact = all(torch.equal(now[name], own) for name, own in self.pristine.items())

        by_studio = {}
        for studio in STUDIOS:
            own = [picture for picture in self.pictures if picture.studio == studio]
            by_studio[studio] = round(share(seen, own)[STUDIO], 4)
        others = [picture for picture in self.pictures if picture.studio not in state.erased]
        gone = [picture for picture in self.pictures if picture.studio in state.erased]
        return {
            "erased": sorted(state.erased),
            "remaining": round(share(seen, gone)[STUDIO], 4),
            "kept": round(kept_share(seen, base, others), 4),
            "subjects": round(kept_share(seen, base, self.pictures, SUBJECT), 4),
            "deviation": round(statistics.mean(deviations.values()), 4),
            "exact": exact,
            "by_studio": by_studio,
        }


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument("--files", type=Path, default=FILES, help="folder of the peers' files")
    options.add_argument(
        "--work", type=Path, default=Path("build/peer_files"), help="folder to go on from"
    )
    arguments = options.parse_args()
    model = begin(arguments)
    peers = Peers(model, arguments.files, arguments.work, quick=arguments.quick)
    results = Results(arguments.out)

    imported = {}
    for library in LIBRARIES:
        imported[library] = results.get(f"import {library}", lambda one=library: peers.build(one))
        for concept, row in imported[library].items():
            print(f"{library}: {concept}  {_line(row)}", file=sys.stderr, flush=True)
    base = results.get("base", peers.look)
    rows = {}
    for state in list(states())[: 2 if arguments.quick else None]:
        row = rows[state.key] = results.get(state.key, lambda s=state: peers.judge(s, base))
        print(f"{state.key:62s}{_line(row)}", file=sys.stderr, flush=True)

    shares = share(base, peers.pictures)
    results.finish(
        {
            "benchmark": "peer_files",
            "base": {"studios": round(shares[STUDIO], 4), "subjects": round(shares[SUBJECT], 4)},
            "pictures": len(peers.pictures),
            "imported": imported,
            "states": rows,
        }
    )


def _line(row: Mapping) -> str:
    numbers = [f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float)]

    return "  ".join(numbers)


if __name__ == "__main__":
    main()
