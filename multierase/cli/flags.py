"""One option of a verb: its name, type, default and help, also those of a settings dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

METAVARS = {bool: "true|false", int: "N", float: "X"}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclasses.dataclass(frozen=True)
class Option:
    """A flag, or where ``name`` has no dashes, what is given without one.

    Args:
        name: as in ``--keep_file`` or ``concepts``; dashes in place of underscores mean the same.
        help: one line; the choices and the default are added to it.
        type: of one value. ``Literal`` types are choices.
        several: takes one or more values, and may be repeated.
        grouped: each use of the flag is a list of its own.
        switch: takes no value.
        group: heading in the help.
    """

    name: str
    help: str
    type: Any = str
    default: Any = None
    required: bool = False
    several: bool = False
    grouped: bool = False
    switch: bool = False
    metavar: str | None = None
    group: str = ""

    @property
    def key(self) -> str:
        """The name in a YAML file and in the parsed arguments."""
        return self.name.removeprefix("--")

    @property
    def positional(self) -> bool:
        return not self.name.startswith("--")

    @property
    def label(self) -> str:
        """The name as people type it."""
        return self.name if self.positional else self.name.replace("_", "-")

    def for_argparse(self) -> dict[str, Any]:
        """Return the keyword arguments of ``add_argument``."""
        taken: dict[str, Any] = {"help": self.described()}
        if self.switch:
            return {**taken, "action": "store_true"}

        taken |= {"type": self.type, "metavar": self._metavar(), "default": self.default}
        if self.positional:
            return {**taken, "nargs": "*" if self.several else "?"}
        if self.several:  # as text; the parser checks each against the choices
            action = "append" if self.grouped else "extend"
            taken |= {"type": str, "nargs": "+", "action": action, "default": []}
        return {**taken, "required": self.required}

    def described(self) -> str:
        """Return the help with choices, repetition and default."""
        notes = []
        if choices := choices_of(self.type):
            notes.append(f"one of: {', '.join(choices)}")
        if self.several and not self.positional:
            notes.append("one or more, repeatable")
        if self.required:
            notes.append("required")
        elif self.default not in (None, "", [], {}, ()) and not self.switch:
            default = str(self.default)
            notes.append(f"default: {default.lower() if self.type is bool else default}")

        text = self.help + (f" ({'; '.join(notes)})" if notes else "")
        return text.replace("%", "%%")  # argparse formats its help

    def _metavar(self) -> str:
        if self.metavar is not None:
            return self.metavar
        kinds = {self.type, *_members(self.type)}
        known = [metavar for kind, metavar in METAVARS.items() if kind in kinds]
        return known[0] if known else self.key.upper()


def one_of(choices: Sequence[str]) -> Any:
    """Return the type of a value that is one of ``choices``, where these are known at run time."""
    return Literal[tuple(choices)]


def choices_of(kind: Any) -> list[str]:
    """Return the values that a type allows, if it lists them."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if kind is bool:
        return ["true", "false"]
    return [choice for inner in _members(kind) for choice in choices_of(inner)]


def kind_of(kind: Any) -> str:
    """Return a type in words, for ``give ...``."""
    optional = " or null" if type(None) in _members(kind) else ""
    plain = next((inner for inner in _members(kind) if inner is not type(None)), kind)
    return KINDS.get(plain, "a value of another kind") + optional


def settings_options(
    settings: type, group: str, *, types_of: Mapping[str, Any] | None = None
) -> list[Option]:
    """Return an option for every field of a dataclass, described by its docstring's ``Args``.

    Args:
        group: heading in the help.
        types_of: types in place of the fields' own, such as choices that are known at run time.
    """
    hints = get_type_hints(settings) | dict(types_of or {})
    about = described_arguments(settings)

    options = []
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        several = get_origin(kind) in (tuple, list)
        options.append(
            Option(
                f"--{field.name}",
                about.get(field.name, ""),
                type=get_args(kind)[0] if several else kind,
                default=[] if several else field.default,
                several=several,
                group=group,
            )
        )
    return options


def described_arguments(documented: type) -> dict[str, str]:
    """Read ``Args:`` of a docstring, each entry joined to one line and without its markup.

    An entry may name several arguments, as in ``solve, keep_weight: ...``.
    """
    text = inspect.getdoc(documented) or ""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return {}

    entries = re.findall(r"^[ ]{4}(\w[\w, ]*): (.*(?:\n[ ]{8}.*)*)", section[1], re.MULTILINE)
    return {
        name.strip(): " ".join(words.split()).replace("``", "").removesuffix(".")
        for names, words in entries
        for name in names.split(",")
    }


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()
