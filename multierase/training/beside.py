"""The dictionary that a library's increments were trained beside."""

from __future__ import annotations

import logging

from multierase.errors import UsageError
from multierase.increments.library import Library
from multierase.models.model import Model
from multierase.separation.dictionary import Dictionary
from multierase.training.defaults import kind_of

MOST_SIBLINGS = 64  # that one file may name

logger = logging.getLogger(__name__)


def kept_beside(model: Model, library: Library) -> list[Dictionary]:
    """Return a dictionary for each kind of the library's increments, in the forms they name.

    A kind that is not there any more is left out, with a warning.
    """
    forms: dict[str, set[str]] = {}
    siblings: dict[str, list[str]] = {}
    for header in library.headers().values():
        made = header.provenance
        in_mean = (made.separation and made.separation.kept_in_mean) or {}
        # Of an import that was not projected the settings alone say how people speak of it.
        listed = in_mean.get("forms") or made.settings.get("forms")
        if listed and isinstance(listed, list):
            kind_name = str(made.settings.get("kind"))
            forms.setdefault(kind_name, set()).update(map(str, listed))
            near = in_mean.get("siblings")  # those that were given
            if isinstance(near, list):
                siblings.setdefault(kind_name, []).extend(map(str, near[:MOST_SIBLINGS]))

    found = []
    for name, wanted in sorted(forms.items()):
        try:
            kind = kind_of(model, name)
        except UsageError as error:
            logger.warning("no dictionary is kept: %s", error)
            continue
        if kind is not None:
            templates = [form for form in kind.sentences if form in wanted]
            made_of = model, kind, templates, library.folder
            near = sorted(siblings.get(name, ()))
            found.append(Dictionary.of(*made_of, siblings=near, progress=True))

    return found
