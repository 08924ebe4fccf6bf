"""The entry: which verb, and what its end means to the shell. Never a traceback for a user."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

import multierase
from multierase.cli.console import ConsoleHandler, print_json, say
from multierase.cli.options import VERBS, common
from multierase.cli.parser import Parser
from multierase.errors import EXPECTED, UsageError, message_of, suggest

SMALLER = "try a smaller --batch-size or --sampling-batch, --dtype float16, or --device cpu"
ALONE = ("-h", "--help", "--version")


class Interrupted(Exception):
    """Ctrl-C, with what to do about it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        0; 1 for an error, or where ``validate`` finds one; 2 for a command that cannot be
        understood; 130 for an interrupt.
    """
    given = [str(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    _log_to_console()

    try:
        code = _run(given)
        sys.stdout.flush()  # here, so that a closed pipe is noticed here
        return code
    except BrokenPipeError:
        return _quiet()
    except BaseException as error:
        if "--debug" in given:
            raise
        return _explain(error)


def _run(given: list[str]) -> int:
    if given and given[0] in ALONE:
        print(f"multierase {multierase.__version__}" if given[0] == "--version" else overview())
        return 0

    name, rest = _verb_of(given)
    verb = VERBS[name]
    try:
        arguments = parser_of(name).read(rest)
    except SystemExit as end:  # argparse, after --help
        return int(end.code or 0)

    module = importlib.import_module(f"multierase.cli.verbs.{verb.module}")
    began = time.time()
    try:
        report = getattr(module, f"run_{name}")(arguments)
    except KeyboardInterrupt:
        raise Interrupted(_way_on(name, arguments, began)) from None

    if arguments.json:
        print_json(report)
    else:
        getattr(module, f"print_{name}")(report)
    return 0 if report.get("sound", True) else 1


def parser_of(name: str) -> Parser:
    """Make the parser of one verb."""
    verb = VERBS[name]
    options = [*verb.options(), *common()]
    names = [option.key.upper() for option in options if option.positional]
    required = [f"{option.label} {option.metavar}" for option in options if option.required]

    return Parser(
        options,
        prog=f"multierase {name}",
        usage=" ".join([f"multierase {name}", *names, *required, "[flags]"]),
        description=f"{verb.about}.",
        epilog=f"example:\n  {verb.example}\n",
    )


def overview() -> str:
    """Return the help of the whole command."""
    lines = [f"  {name:<10} {verb.about}" for name, verb in VERBS.items()]

    return "\n".join(
        [
            "usage: multierase VERB [flags]",
            "",
            "Erase concepts from text-to-image models; compose and restore them.",
            "",
            "verbs:",
            *lines,
            "",
            "multierase VERB --help shows what a verb takes; multierase --version its version.",
        ]
    )


def _verb_of(given: Sequence[str]) -> tuple[str, list[str]]:
    """Split a command line into its verb and what follows it."""
    rest = list(given)
    leading = []
    while rest and rest[0] in ("--debug", "--json"):
        leading.append(rest.pop(0))

    if not rest:
        raise UsageError(f"name a verb: {', '.join(VERBS)}; multierase --help says more")
    if rest[0].startswith("-"):
        raise UsageError(f"{rest[0]} stands before the verb: give multierase VERB and then flags")
    if rest[0] not in VERBS:
        raise UsageError(
            f"unknown verb {rest[0]!r}{suggest(rest[0], VERBS)}; verbs: {', '.join(VERBS)}"
        )

    return rest[0], [*rest[1:], *leading] if "--" not in rest else [*leading, *rest[1:]]


def _explain(error: BaseException) -> int:
    """Print an error in one line and return the exit code."""
    if isinstance(error, (KeyboardInterrupt, Interrupted)):
        say(str(error) or "interrupted")
        return 130

    if isinstance(error, UsageError):
        say(str(error), label="error: ", style="red")
        return 2

    if isinstance(error, MemoryError) or _out_of_gpu_memory(error):
        say(
            f"out of memory: {str(error) or 'on this machine'}; {SMALLER}",
            label="error: ",
            style="red",
        )
    elif isinstance(error, EXPECTED):
        say(message_of(error), label="error: ", style="red")
    elif isinstance(error, Exception):
        what = f"{type(error).__name__}: {error}"
        say(f"this is a bug: {what}; --debug shows where", label="error: ", style="red")
    else:
        raise error
    return 1


def _out_of_gpu_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # if nothing has imported it, this is not its error

    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _way_on(name: str, arguments: Namespace, began: float) -> str:
    """Say how an interrupted verb goes on, where it can."""
    if name == "erase":
        # A file's time comes from a coarser clock, which may be a little behind.
        checkpoints = list(Path(arguments.library).glob("*.partial"))
        new = any(path.stat().st_mtime > began - 1 for path in checkpoints)
        if new or (arguments.resume and checkpoints):
            return "interrupted; go on with the same command and --resume"
    if name == "sweep" and Path(arguments.database).is_file():
        return "interrupted; the same command goes on where it stopped"

    return "interrupted"


def _log_to_console() -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, ConsoleHandler) for handler in root.handlers):
        root.addHandler(ConsoleHandler())
    logging.getLogger("multierase").setLevel(logging.INFO)


def _quiet() -> int:
    """End without a word, for whoever reads the output has had enough of it."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
