"""Settings from YAML files and command-line flags alike, into the dataclasses that the modules define."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jsonargparse

from multierase.increments import suggest


class UsageError(Exception):
    """A command line or configuration file that cannot be understood."""


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors are exceptions, and say what an unknown key may have been meant to be."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, exit_on_error=False, allow_abbrev=False, **kwargs)

    def keys(self) -> list[str]:
        """Every option of this parser, as its YAML key."""
        return [action.dest for action in self._actions if action.dest not in {"help", "config", "==SUPPRESS=="}]


def parse(parser: Parser, verbs: dict[str, Parser], arguments: Sequence[str]) -> jsonargparse.Namespace:
    """Parse a command line; ``--batch-size`` and ``--batch_size`` are the same flag.

    Raises:
        UsageError: with the nearest match of an unknown key or verb.
    """
    arguments = [_underscored(argument) for argument in arguments]
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if verb is not None and verb not in verbs:
        raise UsageError(f"unknown verb {verb!r}{suggest(verb, verbs)}; verbs: {', '.join(verbs)}")
    try:
        return parser.parse_args(arguments)
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise UsageError(_explained(str(error), verbs[verb].keys() if verb else [])) from error


def _underscored(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _explained(message: str, keys: Sequence[str]) -> str:
    unknown = re.findall(r"[Kk]ey '?\"?([\w.]+)|[Uu]nrecognized arguments: --([\w]+)|option '([\w.]+)'", message)
    names = [name.split(".")[-1] for match in unknown for name in match if name and name.split(".")[-1] not in keys]
    hints = [f"unknown setting {name!r}{suggest(name, keys)}" for name in dict.fromkeys(names)]
    return "\n".join([*hints, message.strip()])
