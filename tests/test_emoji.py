"""The embedded base's words."""

from __future__ import annotations

import pytest

from multierase.emoji import (
    STUDIO_AND_SUBJECT,
    STUDIO_ONLY,
    STUDIOS,
    SUBJECT_ONLY,
    SUBJECTS,
    fill,
    with_article,
)


@pytest.mark.parametrize(
    ("subject", "written"),
    [("elephant", "an elephant"), ("church", "a church"), ("grapes", "grapes"), ("bread", "bread")],
)
def test_articles(subject, written):
    assert with_article(subject) == written


def test_templates_are_filled():
    assert fill(("{a_subject} by {studio}", "{studio} {subject}"), "Noto", "elephant") == [
        "an elephant by Noto",
        "Noto elephant",
    ]


def test_the_base_was_taught_every_sentence(emoji):
    """What the embedded list of prompts says is filled from these words."""
    written = {tagged.prompt for tagged in emoji.known_prompts}
    sentences = set()
    for templates in (STUDIO_AND_SUBJECT, STUDIO_ONLY, SUBJECT_ONLY):
        for studio in STUDIOS:
            for subject in SUBJECTS:
                sentences.update(fill(templates, studio, subject))
    assert written <= sentences


def test_names_are_distinct():
    assert len(set(STUDIOS)) == len(STUDIOS) == 9
    assert len(set(SUBJECTS)) == len(SUBJECTS)
    assert not {name.lower() for name in STUDIOS} & set(SUBJECTS)
