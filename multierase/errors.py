"""Every exception of multierase, and the nearest match that its messages offer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(given: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` if something allowed is near to what was given, else nothing."""
    by_lower = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.5)

    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


class MultieraseError(Exception):
    """Base class of every error that multierase raises on purpose."""


class UsageError(MultieraseError):
    """A command line or configuration file that cannot be understood."""


class IncrementFileError(MultieraseError, ValueError):
    """A file that is not a sound increment file, or not one for this base."""


class FormatVersionError(IncrementFileError):
    """An increment file of a format version that this multierase does not read."""


class CheckpointError(MultieraseError, ValueError):
    """A checkpoint that is damaged, or belongs to another erasure."""


class DatabaseError(MultieraseError, ValueError):
    """A file that cannot be, or cannot become, a sweep's database."""


class PromptFileError(MultieraseError, ValueError):
    """A list of prompts that cannot be read."""


class SuiteError(MultieraseError, ValueError):
    """A suite of evaluation prompts that is not well formed."""


class WeightsFileError(MultieraseError, ValueError):
    """A file of somebody else's weights that cannot be read safely."""


class WriteError(MultieraseError, OSError):
    """A file that could not be written; what stood under its name before is unchanged."""


class AlreadyThere(MultieraseError, FileExistsError):
    """A file that would be overwritten without having been asked for."""


class UnknownConcept(MultieraseError, KeyError):
    """A concept that the library does not hold."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr


class ConceptRefused(MultieraseError, ValueError):
    """A concept that cannot be erased: the prompts to keep exactly use all of its directions.

    Attributes:
        concept: its name.
    """

    def __init__(self, message: str, concept: str = ""):
        super().__init__(message)
        self.concept = concept


class ModelChanged(MultieraseError, RuntimeError):
    """Composed weights that somebody else has changed since the composer wrote them."""


class ModelHeld(MultieraseError, RuntimeError):
    """A model whose weights another composer holds."""


class DeviceError(MultieraseError, ValueError):
    """A device that is not there, or has too little memory."""


class MissingExtra(MultieraseError, ValueError):
    """An optional package that is not installed."""


class Cancelled(MultieraseError, RuntimeError):
    """A run that was asked to end before it was done; what it had is kept where it keeps it."""


EXPECTED = (MultieraseError, ValueError, KeyError, OSError, FloatingPointError)
"""What may go wrong for a user; everything else is a bug."""


def message_of(error: BaseException) -> str:
    """Return an error's text; a plain ``KeyError`` has nothing but the key."""
    return str(error) if str(error) and type(error) is not KeyError else repr(error)
