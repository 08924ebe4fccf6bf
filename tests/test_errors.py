"""Errors are one family, each also the builtin that Python users expect, and name the way out."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import pytest

import multierase
from multierase import errors
from multierase.errors import ConceptRefused, MultieraseError, UnknownConcept, suggest

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, MultieraseError)
]
BUILTIN = {
    "MultieraseError": Exception,
    "UsageError": Exception,
    "IncrementFileError": ValueError,
    "FormatVersionError": ValueError,
    "CheckpointError": ValueError,
    "DatabaseError": ValueError,
    "PromptFileError": ValueError,
    "SuiteError": ValueError,
    "WeightsFileError": ValueError,
    "WriteError": OSError,
    "AlreadyThere": FileExistsError,
    "UnknownConcept": KeyError,
    "ConceptRefused": ValueError,
    "ModelChanged": RuntimeError,
    "ModelHeld": RuntimeError,
    "DeviceError": ValueError,
    "MissingExtra": ValueError,
    "Cancelled": RuntimeError,
}


def test_every_error_is_also_the_builtin_that_it_is_documented_as():
    assert {kind.__name__ for kind in CLASSES} == BUILTIN.keys()
    for kind in CLASSES:
        assert issubclass(kind, BUILTIN[kind.__name__])


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_shows_its_message_and_survives_a_process(kind):
    """Workers send theirs to the main process."""
    error = kind("cannot do 'x': do y")
    assert str(error) == "cannot do 'x': do y"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_every_error_is_raised_somewhere():
    code = "".join(path.read_text() for path in Path(multierase.__file__).parent.rglob("*.py"))
    unused = [
        kind.__name__
        for kind in CLASSES
        if kind is not MultieraseError and not re.search(rf"raise {kind.__name__}\(", code)
    ]
    assert unused == []


def test_no_other_module_defines_an_exception():
    own = re.compile(r"^class (\w+)\(.*(?:Exception|Error)\)", re.MULTILINE)
    found = set()
    for path in Path(multierase.__file__).parent.rglob("*.py"):
        if path.name != "errors.py":
            found.update(own.findall(path.read_text()))

    # Control flow of the command line, which no library user can meet.
    assert found <= {"Interrupted"}


def test_a_refused_concept_is_named():
    assert ConceptRefused("nothing is left", "noto").concept == "noto"
    assert ConceptRefused("nothing is left").concept == ""


def test_an_unknown_concept_is_a_key_that_is_not_there():
    with pytest.raises(KeyError):
        raise UnknownConcept("x")
    assert "'" not in str(UnknownConcept("x"))


@pytest.mark.parametrize(
    ("given", "allowed", "told"),
    [
        ("Noto", ["noto", "Twemoji"], "; did you mean 'noto'?"),
        ("esdx", ["esd-x", "esd-u", "full"], "; did you mean 'esd-x'?"),
        ("xattn", ["selfattn", "full"], "; did you mean 'selfattn'?"),
        ("VAN GOGH", ["Van Gogh"], "; did you mean 'Van Gogh'?"),
        ("zebra", ["noto"], ""),
        ("", ["noto"], ""),
        ("noto", [], ""),
    ],
)
def test_the_nearest_name_is_suggested(given, allowed, told):
    assert suggest(given, allowed) == told
    assert suggest(given, iter(allowed)) == told
