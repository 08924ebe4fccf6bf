"""What each verb of the command line takes."""

from __future__ import annotations

from typing import Literal, get_args

from multierase.composer import Solve
from multierase.erase_settings import EraseSettings
from multierase.evaluation.baselines import Method
from multierase.evaluation.measures import Backbone
from multierase.evaluation.plans import Sets
from multierase.evaluation.suites import shipped_suites
from multierase.generate import SamplingSettings
from multierase.settings import Parser

METHODS = ", ".join(method for method in get_args(Method) if method != "peer")  # a peer is given by --peer


def _add_base(parser: Parser) -> None:
    parser.add_argument(
        "--base", type=str, default="emoji", help="'emoji', a diffusers folder, a .safetensors, a hub id"
    )
    parser.add_argument(
        "--base_config", type=str | None, default=None, help="pipeline folder that says a file's layout"
    )
    parser.add_argument("--device", type=str | None, default=None, help="cuda where there is one, else cpu")
    parser.add_argument("--dtype", type=str, default="float32", help="float32, float16 or bfloat16")


def _add_composition(parser: Parser) -> None:
    _add_base(parser)
    parser.add_argument("--library", type=str | None, default=None, help="folder of increments")
    parser.add_argument(
        "--erase", type=str, action="append", default=[], help="CONCEPT or CONCEPT=STRENGTH; repeatable"
    )
    parser.add_argument(
        "--solve", type=Solve | None, default=None, help="how increments are put together: joint where there is a "
        "keep-list, the base's own or a given one, else their sum"
    )  # fmt: skip
    parser.add_argument("--keep", type=str, action="append", default=[], help="a prompt to keep; repeatable")
    parser.add_argument("--keep_file", type=str | None, default=None, help="more prompts to keep: .txt or .csv")
    parser.add_argument("--keep_weight", type=float, default=3.0, help="of what is kept, in a joint solve")


def _add_erase(parser: Parser) -> None:
    parser.add_argument("concepts", type=str, nargs="*", default=[], help="names of the concepts")
    _add_base(parser)
    parser.add_argument("--library", type=str, required=True, help="folder of increments; made if need be")
    parser.add_argument(
        "--prompts", type=list[str], default=[], help="prompts that call the concept up; its name by default"
    )
    parser.add_argument(
        "--prompts_file", type=str | None, default=None, help="a .txt, or a .csv with a column 'prompt'"
    )
    parser.add_argument("--anchor", type=str, default="", help="prompt of what takes its place")
    parser.add_argument("--erase_from", type=str | None, default=None, help="erase it from this concept only")
    parser.add_argument("--keep_file", type=str | None, default=None, help="more prompts to keep: .txt or .csv")
    parser.add_argument("--simultaneous", action="store_true", help="train all in one run, under one another")
    parser.add_argument("--resume", action="store_true", help="go on where a killed erasure stopped")
    parser.add_class_arguments(EraseSettings)


def _add_generate(parser: Parser) -> None:
    parser.add_argument("prompts", type=str, nargs="*", default=[])
    _add_composition(parser)
    parser.add_argument("--out", type=str, required=True, help="the picture: one column a prompt, one row a seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1, help="rows: seeds from --seed on")
    parser.add_class_arguments(SamplingSettings)


def _add_compose(parser: Parser) -> None:
    _add_composition(parser)
    parser.add_argument("--out", type=str, required=True, help="new folder for the pipeline")


def _add_library(parser: Parser) -> None:
    parser.add_argument("--library", type=str, required=True, help="folder of increments")


def _add_show(parser: Parser) -> None:
    parser.add_argument("concept", type=str)
    _add_library(parser)


def _add_validate(parser: Parser) -> None:
    _add_library(parser)
    _add_base(parser)


def _add_compress(parser: Parser) -> None:
    _add_library(parser)
    parser.add_argument("concepts", type=str, nargs="*", default=[], help="names of the concepts; all by default")
    parser.add_argument("--out", type=str, required=True, help="library of the smaller files; made if need be")
    parser.add_argument("--error", type=float, default=0.05, help="most of an increment's norm that may be lost")
    parser.add_argument("--dtype", type=str, default="float16", help="of the stored numbers: float32, float16 or int8")


def _add_crosstalk(parser: Parser) -> None:
    _add_library(parser)
    _add_base(parser)
    parser.add_argument("--keep_file", type=str | None, default=None, help="prompts to keep: .txt or .csv")
    parser.add_argument("--out", type=str | None, default=None, help="the matrix as a picture; needs matplotlib")


def _add_demo(parser: Parser) -> None:
    parser.add_argument("--out", type=str, default="demo", help="folder for the sheet, the report and the increments")
    _add_base(parser)
    parser.add_class_arguments(EraseSettings)


def _add_subject(parser: Parser) -> None:
    """What ``evaluate`` and ``sweep`` have in common."""
    _add_base(parser)
    parser.add_argument("--library", type=str | None, default=None, help="folder of increments; baselines need none")
    parser.add_argument("--peer", type=str | None, default=None, help="a peer's pipeline folder, or U-Net weights")
    parser.add_argument("--suite", type=str, default="studios", help=f"a YAML file, or one of {shipped_suites()}")
    parser.add_argument("--solve", type=Solve | None, default=None, help="as for generate")
    parser.add_argument("--keep_file", type=str | None, default=None, help="prompts to keep: .txt or .csv")
    parser.add_argument("--keep_weight", type=float, default=3.0, help="of what is kept, in a joint solve")
    parser.add_argument("--inference_steps", type=int | None, default=None, help="in place of the suite's")
    parser.add_argument("--guidance_scale", type=float | None, default=None, help="in place of the suite's")
    parser.add_argument("--batch_size", type=int, default=64, help="pictures at a time")
    parser.add_argument(
        "--thumbnails", type=int | None, default=None, help="cases whose pictures are kept to look at, for the suite's"
    )
    parser.add_argument(
        "--prompts", type=str | None, default=None, help="CSV with the prompts, in place of the suite's"
    )
    parser.add_argument(
        "--judge", type=dict[str, str | float], default={}, help="in place of the suite's: --judge.model FOLDER"
    )
    parser.add_argument("--clip", type=str | None, default=None, help="CLIP for the CLIP score: a folder or hub id")
    parser.add_argument("--lpips", type=Backbone | None, default=None, help="LPIPS to the base's pictures")
    parser.add_argument("--fid", type=str | None, default=None, help="Inception's weights: Fréchet distances as FID's")
    parser.add_argument(
        "--reference", type=str | None, default=None, help="real pictures, a folder or .npz: one more such distance"
    )


def _add_evaluate(parser: Parser) -> None:
    _add_subject(parser)
    parser.add_argument("--erase", type=str, action="append", default=[], help="CONCEPT; repeatable")
    parser.add_argument("--method", type=str, action="append", default=[], help=f"repeatable, for one table: {METHODS}")
    parser.add_argument("--database", type=str | None, default=None, help="keep the pictures' verdicts here")


def _add_sweep(parser: Parser) -> None:
    _add_subject(parser)
    parser.add_argument("--method", type=str, default="increments", help=f"how they are erased: {METHODS}")
    parser.add_argument("--database", type=str, required=True, help="SQLite file; goes on where it stopped")
    parser.add_argument("--sets", type=Sets, default="subsets", help="which sets of concepts are erased")
    parser.add_argument("--concepts", type=list[str], default=[], help="of the library; all by default")
    parser.add_argument("--count", type=int, default=0, help="how many, for --sets random")
    parser.add_argument("--seed", type=int, default=0, help="of --sets random")
    parser.add_argument("--listed", type=list[list[str]], default=[], help="the sets, for --sets list")
    parser.add_argument("--events", type=list[str], default=[], help="'erase X', 'restore X', for --sets order")
    parser.add_argument("--workers", type=int | None, default=None, help="of one thread each; one a core by default")
    parser.add_argument(
        "--executor", type=Literal["processes", "ray"], default="processes", help="where the workers are: here, or on "
        "a Ray cluster, every node of which sees the same folders"
    )  # fmt: skip
    parser.add_argument("--address", type=str | None, default=None, help="of the Ray cluster; one is started else")
    parser.add_argument("--gpus_per_worker", type=float, default=0.5, help="on a Ray cluster that has GPUs")


def _add_report(parser: Parser) -> None:
    parser.add_argument("databases", type=str, nargs="+", help="of sweeps or evaluations: one, or one a method")
    parser.add_argument("--out", type=str, required=True, help="folder for the page and its tables")
    parser.add_argument("--parquet", action="store_true", help="write pictures.parquet too; needs pyarrow")


VERBS = {
    "demo": ("erase two studios, give one back, and see it", _add_demo),
    "erase": ("erase concepts, each into its own increment file", _add_erase),
    "ls": ("list a library", _add_library),
    "show": ("everything about one increment", _add_show),
    "generate": ("pictures, with concepts erased", _add_generate),
    "compose": ("write a diffusers pipeline with concepts erased", _add_compose),
    "compress": ("write smaller increment files, to a stated error", _add_compress),
    "crosstalk": ("what each increment does to the other concepts", _add_crosstalk),
    "evaluate": ("judge what erasing a set of concepts did", _add_evaluate),
    "sweep": ("judge many sets of concepts, resumably", _add_sweep),
    "report": ("a sweep as a page to look at, and as tables", _add_report),
    "validate": ("check every file of a library against its base", _add_validate),
}


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The whole parser, and by name those of the verbs."""
    parser = Parser(
        prog="multierase", description="Erase concepts from text-to-image models; compose and restore them."
    )
    subcommands = parser.add_subcommands(required=True, dest="verb")
    verbs = {}
    for name, (help_text, add) in VERBS.items():
        verb = Parser(description=help_text)
        verb.add_argument("--config", action="config", help="YAML file with any of these settings")
        verb.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        add(verb)
        subcommands.add_subcommand(name, verb, help=help_text)
        verbs[name] = verb
    return parser, verbs
