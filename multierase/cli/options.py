"""The verbs of the command line and what each of them takes: data, no work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from multierase.cli.flags import Option, one_of, settings_options
from multierase.cli.option_groups import base, composition, executors, keep_file, library, solve
from multierase.cli.options_evaluation import (
    attack_options,
    evaluate_options,
    report_options,
    sweep_options,
)
from multierase.cli.options_tools import (
    completion_options,
    doctor_options,
    remove_options,
    rename_options,
)

STORED = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Args:
        about: one line for the help.
        module: of ``cli.verbs``: it holds ``run_NAME(arguments) -> report`` and
            ``print_NAME(report)``.
        options: makes them, which may read what the core lists; only the verb asked for is made.
        example: a whole command.
    """

    about: str
    module: str
    options: Callable[[], list[Option]]
    example: str


def common() -> list[Option]:
    """Return the options of every verb."""
    return [
        Option(
            "--config", "YAML file with any of these settings; flags win over it", metavar="FILE"
        ),
        Option("--json", "print one JSON object on stdout and no tables", switch=True),
        Option("--debug", "show where an error was raised", switch=True),
    ]


def erase_settings() -> list[Option]:
    """Return the training loop's settings, with the scopes of every family as choices."""
    from multierase.models.scopes import scope_names
    from multierase.training.settings import EraseSettings

    return settings_options(
        EraseSettings, "how to train", types_of={"scope": one_of(scope_names()) | None}
    )


def _erase() -> list[Option]:
    from multierase.methods import METHODS

    methods = [f"{name} {method.about.replace(';', ',')}" for name, method in METHODS.items()]
    return [
        Option("concepts", "names of the concepts to erase", several=True, default=[]),
        Option(
            "--concepts_file",
            "names of more concepts: a .txt with one a line, or a .csv with a column 'concept', "
            "and 'kind', 'anchor' or 'siblings' for what differs; each is a run of its own, in one "
            "of several workers, as all are with --workers or --executor",
            type=str | None,
            metavar="FILE",
        ),
        *base(),
        library("folder of increments; made if need be"),
        Option(
            "--method",
            f"how increments are made: {'; '.join(methods)}",
            type=one_of(tuple(METHODS)),
            default="esd",
        ),
        Option(
            "--prompts",
            "prompts that call the concept up; by default its name and the base's sentences about "
            "it",
            several=True,
            metavar="PROMPT",
        ),
        Option(
            "--prompts_file",
            "more such prompts: a .txt with one a line, or a .csv with a column 'prompt'",
            type=str | None,
            metavar="FILE",
        ),
        Option(
            "--anchor", "prompt of what takes the concept's place; by default nothing", default=""
        ),
        Option(
            "--erase_from",
            "erase the concept from this one only",
            type=str | None,
            metavar="CONCEPT",
        ),
        keep_file(),
        Option(
            "--simultaneous",
            "train all concepts in one run, each with the others erased",
            switch=True,
        ),
        Option("--overwrite", "replace the files of concepts that are in the library", switch=True),
        Option(
            "--resume",
            "go on where an interrupted erasure stopped; of a file's concepts, those that are in "
            "the library are done",
            switch=True,
        ),
        *executors(None),
        *erase_settings(),
    ]


def _show() -> list[Option]:
    return [Option("concept", "name of the concept"), library()]


def _validate() -> list[Option]:
    return [library(), *base()]


def _compress() -> list[Option]:
    return [
        Option("concepts", "names of the concepts; by default all", several=True, default=[]),
        library(),
        Option(
            "--out",
            "library of the smaller files; made if need be",
            required=True,
            metavar="FOLDER",
        ),
        Option(
            "--error",
            "largest share of an increment's norm that may be lost",
            type=float,
            default=0.05,
        ),
        Option("--dtype", "type of the stored numbers", type=one_of(STORED), default="float16"),
        Option(
            "--overwrite",
            "replace files that are there, also the library's own if --out is the library itself",
            switch=True,
        ),
    ]


def _crosstalk() -> list[Option]:
    return [
        library(),
        *base(),
        keep_file(),
        Option(
            "--out",
            "write the matrix as a picture too, replacing an older one; needs matplotlib",
            type=str | None,
            metavar="FILE",
        ),
    ]


def _certify() -> list[Option]:
    return [
        library(),
        *base(),
        Option(
            "--erase",
            "concepts to erase together; without any, the base itself is examined",
            several=True,
            metavar="NAME",
        ),
        keep_file(),
        *solve(),
    ]


def _generate() -> list[Option]:
    from multierase.sampling import SamplingSettings

    return [
        Option("prompts", "prompts, one column of the picture each", several=True, default=[]),
        *composition(),
        Option(
            "--out",
            "the picture, one column per prompt and one row per seed; replaces an older one",
            required=True,
            metavar="FILE",
        ),
        Option(
            "--compare",
            "above each row, show the base's pictures of the same prompts and seed",
            switch=True,
        ),
        Option("--seed", "seed of the first row", type=int, default=0),
        Option("--images", "number of rows; their seeds count up from --seed", type=int, default=1),
        *settings_options(SamplingSettings, "how to sample"),
    ]


def _export() -> list[Option]:
    from multierase.interop.targets import TARGETS, ExportSettings

    formats = [f"{name}: {target.about}" for name, target in TARGETS.items()]
    return [
        *composition(),
        Option(
            "--to",
            f"what to write: {'; '.join(formats)}",
            type=one_of(tuple(TARGETS)),
            default="pipeline",
        ),
        Option(
            "--out",
            "the file, or the folder; a folder that holds anything is refused",
            required=True,
            metavar="PATH",
        ),
        Option("--overwrite", "replace a file that is there", switch=True),
        *settings_options(ExportSettings, "how to write"),
    ]


def _import() -> list[Option]:
    from multierase.interop.sources import ImportSettings

    asked = settings_options(ImportSettings, "how to import")
    return [
        Option("file", "file or folder of another tool's"),
        Option("--concept", "name of the concept that it erases", required=True, metavar="NAME"),
        *base(),
        library("folder of increments; made if need be"),
        keep_file(),
        Option("--overwrite", "replace the concept's file if it is there", switch=True),
        *(replace(one, switch=True) if one.type is bool else one for one in asked),
    ]


def _demo() -> list[Option]:
    return [
        Option(
            "--out",
            "folder for the picture and the report, which replace older ones, and the increments; "
            "those of an earlier demonstration are used again",
            default="demo",
            metavar="FOLDER",
        ),
        Option("--overwrite", "make increments of an earlier demonstration anew", switch=True),
        *base(),
        *erase_settings(),
    ]


def _app() -> list[Option]:
    from multierase.app import Serving

    return [
        library("folder of increments; it is made if it is not there"),
        *base(),
        *solve(),
        *settings_options(Serving, "where it is served"),
    ]


VERBS = {
    "demo": Verb(
        "erase two studios, restore one, and look at it",
        "demo",
        _demo,
        "multierase demo --out demo",
    ),
    "erase": Verb(
        "erase concepts, each into its own increment file",
        "erase",
        _erase,
        'multierase erase "Twemoji" "Noto" --library lib',
    ),
    "ls": Verb("list a library", "library", lambda: [library()], "multierase ls --library lib"),
    "show": Verb(
        "show how one increment was made", "library", _show, "multierase show Noto --library lib"
    ),
    "generate": Verb(
        "make pictures with concepts erased",
        "pictures",
        _generate,
        'multierase generate "a cat by Noto" --library lib --erase Noto --out sheet.png',
    ),
    "export": Verb(
        "write a base with concepts erased for other tools: diffusers, ComfyUI, A1111",
        "pictures",
        _export,
        "multierase export --library lib --erase Noto Twemoji=0.5 --to kohya --out set.safetensors",
    ),
    "import": Verb(
        "make an increment of another tool's file: ESD, UCE, MACE, SPM, LoRAs and others",
        "exchange",
        _import,
        "multierase import esd-noto.safetensors --concept Noto --library lib --project",
    ),
    "compress": Verb(
        "write smaller increment files, to a stated error",
        "library",
        _compress,
        "multierase compress --library lib --out small",
    ),
    "crosstalk": Verb(
        "measure how each increment moves the other concepts",
        "library",
        _crosstalk,
        "multierase crosstalk --library lib",
    ),
    "app": Verb(
        "erase, switch, restore and compare in a browser",
        "app",
        _app,
        "multierase app --library lib",
    ),
    "certify": Verb(
        "say what erasing a set does, by unseen sentences and without a picture",
        "certify",
        _certify,
        "multierase certify --library lib --erase Noto Twemoji",
    ),
    "evaluate": Verb(
        "judge what erasing a set of concepts did",
        "evaluate",
        evaluate_options,
        "multierase evaluate --suite studios --library lib --erase Noto",
    ),
    "sweep": Verb(
        "judge many sets of concepts, resumably",
        "evaluate",
        sweep_options,
        "multierase sweep --suite studios --library lib --sets pairs --database sweep.db",
    ),
    "attack": Verb(
        "attack an erased concept, and the base beside it",
        "attack",
        attack_options,
        "multierase attack Noto --library lib --attack ring-a-bell noised",
    ),
    "report": Verb(
        "write sweeps as a page to look at, and as tables",
        "evaluate",
        report_options,
        "multierase report sweep.db --out report",
    ),
    "validate": Verb(
        "check every file of a library against its base",
        "library",
        _validate,
        "multierase validate --library lib",
    ),
    "rename": Verb(
        "give a concept of a library another name",
        "library",
        rename_options,
        'multierase rename Noto "Noto Emoji" --library lib',
    ),
    "remove": Verb(
        "delete concepts from a library, with their files",
        "library",
        remove_options,
        "multierase remove Noto --library lib",
    ),
    "doctor": Verb(
        "say what is installed, what is missing, and whether a base is found",
        "doctor",
        doctor_options,
        "multierase doctor --base emoji",
    ),
    "completion": Verb(
        "write a script that lets a shell complete verbs, flags and choices",
        "completion",
        completion_options,
        "multierase completion bash",
    ),
}
