"""Flags and YAML files as one set of values, checked by type; every error is an exception."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from multierase.cli.flags import Option, choices_of, kind_of
from multierase.errors import UsageError, suggest

NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|-inf")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help in which flags are spelt with dashes, as people type them; underscores mean the same."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = [flag.replace("_", "-") for flag in action.option_strings]
        if not flags or action.nargs == 0:
            return ", ".join(flags) or str(action.metavar)

        return f"{flags[0]} {action.metavar}" + (" ..." if action.nargs == "+" else "")

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Wrap between words alone: a choice such as ``esd-x-strict`` stays whole."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(jsonargparse.ArgumentParser):
    """A parser of one verb, whose errors are exceptions that name the nearest match."""

    def __init__(self, options: Sequence[Option], **kwargs: Any):
        super().__init__(
            exit_on_error=False, allow_abbrev=False, formatter_class=Formatter, **kwargs
        )
        self.options = {option.key: option for option in options}

        groups: dict[str, Any] = {"": self}
        for option in options:
            if option.group not in groups:
                groups[option.group] = self.add_argument_group(option.group)
            groups[option.group].add_argument(option.name, **option.for_argparse())

    def read(self, arguments: Sequence[str]) -> jsonargparse.Namespace:
        """Parse what follows the verb: flags, and ``--config`` files for all that no flag says.

        Raises:
            UsageError: for anything unknown, missing or of the wrong type, with the nearest match.
        """
        tokens = _tidied(arguments)
        flags = list(_flags_of(tokens))
        configured = self._configured([value for flag, value in flags if flag == "config"])

        # A file's values become flags too, so that both are read by the same rules.
        given = {flag for flag, _ in flags}
        more: list[str] = []
        for key, value in configured.items():
            if key not in given and not self.options[key].positional:
                more += _as_flags(self.options[key], value)

        namespace = self._parsed([*more, *tokens])
        for key, value in configured.items():
            if self.options[key].positional and not namespace[key]:
                namespace[key] = _as_positional(self.options[key], value)

        self._require_choices(namespace)
        return namespace

    def _require_choices(self, namespace: jsonargparse.Namespace) -> None:
        """Check values that are given several at a time, which argparse takes as text."""
        for key, option in self.options.items():
            allowed = choices_of(option.type) if option.several else []
            for value in namespace[key] if allowed else []:
                if value not in allowed:
                    raise UsageError(_wrong_value(option, value))

    def _parsed(self, tokens: Sequence[str]) -> jsonargparse.Namespace:
        try:
            return self.parse_args(list(tokens))
        except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
            raise UsageError(self._explained(str(error))) from error

    def _configured(self, paths: Sequence[str]) -> dict[str, Any]:
        """Read the values of YAML files; a later file wins."""
        values: dict[str, Any] = {}
        for path in paths:
            for name, value in _mapping(path).items():
                key = str(name).replace("-", "_")
                if key not in self.options or key == "config":
                    raise UsageError(f"{path}: {self._unknown(key)}")
                values[key] = value

        return values

    def _unknown(self, key: str) -> str:
        names = sorted(name for name in self.options if name != "config")

        return f"unknown setting {key!r}{suggest(key, names)}; allowed: {', '.join(names)}"

    def _explained(self, message: str) -> str:
        """Say a parser's message in the words of the command line."""
        wrong = re.search(r'Parser key "(\w+)[\w.]*":.*[vV]alue: (.*)', message, re.DOTALL)
        if wrong and wrong[1] in self.options:
            return _wrong_value(self.options[wrong[1]], wrong[2])

        unknown = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
        if unknown and (flag := re.match(r"--?([^\s=.]+)", unknown[1])):
            return self._unknown(flag[1])
        if unknown:
            return f"{unknown[1]!r} is too much: names and prompts stand together, before the flags"

        missing = re.match(r"the following arguments are required: (.*)", message)
        if missing:
            return "; ".join(self._missing(key) for key in missing[1].split(", "))

        return re.sub(
            r"^argument (--\w+): ", lambda flag: flag[1].replace("_", "-") + ": ", message.strip()
        )

    def _missing(self, key: str) -> str:
        option = self.options[key.removeprefix("--")]

        return f"{option.label} is missing: {option.help}"


def _wrong_value(option: Option, given: str) -> str:
    allowed = sorted(choices_of(option.type))
    if allowed:
        return f"{option.label} {given!r}{suggest(given, allowed)}; give one of {allowed}"

    return f"{option.label} {given!r}: give {kind_of(option.type)}"


def _tidied(arguments: Sequence[str]) -> list[str]:
    """Give each flag its one spelling, and tie negative numbers to the flag before them.

    ``--batch-size`` is ``--batch_size``; argparse takes ``-1e-3`` for a flag of its own.
    """
    tokens: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*tokens, *arguments[position:]]

        before = tokens[-1] if tokens else ""
        if NEGATIVE.fullmatch(argument) and before.startswith("--") and "=" not in before:
            tokens[-1] += f"={argument}"
        elif argument.startswith("--"):
            name, equals, value = argument.partition("=")
            tokens.append(name.replace("-", "_").replace("__", "--", 1) + equals + value)
        else:
            tokens.append(argument)

    return tokens


def _flags_of(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every flag's key, with the text that follows it."""
    for token, following in itertools.pairwise([*tokens, ""]):
        if token == "--":
            return
        if token.startswith("--"):
            name, equals, value = token.removeprefix("--").partition("=")
            yield name.split(".")[0], value if equals else following


def _mapping(path: str) -> dict:
    """Read a YAML file of settings."""
    if not Path(path).is_file():
        raise UsageError(f"--config {path}: there is no such file")

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"--config {path} cannot be read as YAML: {error}") from error

    if not isinstance(values or {}, dict):
        raise UsageError(f"--config {path}: give settings, one 'name: value' a line")
    return values or {}


def _as_flags(option: Option, value: Any) -> list[str]:
    """Spell a value of a YAML file as the flags that say the same."""
    if option.switch:
        if not isinstance(value, bool):
            raise UsageError(f"{option.key} {value!r}: give true or false")
        return [option.name] if value else []

    if not option.several:
        return [f"{option.name}={_text(value)}"]

    values = value if isinstance(value, list) else [value]
    if option.grouped and all(isinstance(group, list) for group in values):
        return [text for group in values for text in (option.name, *map(_text, group))]
    return [f"{option.name}={_text(one)}" for one in values]


def _as_positional(option: Option, value: Any) -> Any:
    if not option.several:
        return _text(value)

    return [_text(one) for one in (value if isinstance(value, list) else [value])]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
