"""Names as English writes them."""

from __future__ import annotations

import pytest

from multierase.prompts.wording import endings, plain, significant_words, with_article


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("owl", "an owl"),
        ("church", "a church"),
        ("hourglass", "an hourglass"),
        ("unicycle", "a unicycle"),
        ("unusual house", "an unusual house"),
        ("octopus", "an octopus"),
        ("cookie in a box", "a cookie in a box"),
        ("bowl of cherries", "a bowl of cherries"),
        ("box (full)", "a box (full)"),
        ("English springer", "an English springer"),
        ("cherries", "cherries"),
        ("bread", "bread"),
        ("nudity", "nudity"),
        ("children in a park", "children in a park"),
        ("Van Gogh", "Van Gogh"),
        ("the sea", "the sea"),
        ("The Scream", "The Scream"),
        ("a man", "a man"),
        ("two men", "two men"),
        ("", ""),
    ],
)
def test_articles(name, written):
    assert with_article(name) == written


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Salvador Dalí", "salvador dali"),
        ("the churches", "church"),
        ("Cherries", "cherry"),
        ("a glass", "glasses"),
        ("jack-o'-lantern", "Jack o lantern"),
    ],
)
def test_one_name_may_be_written_in_several_ways(name, other):
    assert plain(name) == plain(other)


def test_function_words_particles_and_colours_relate_nobody():
    assert significant_words("Vincent van Gogh") == {"vincent", "gogh"}
    assert significant_words("The Night Watch") == {"night", "watch"}
    assert significant_words("a big red M") == set()


def test_a_name_ends_in_what_it_is_a_kind_of():
    assert endings("Irish water spaniel") == {"irish water spaniel", "water spaniel", "spaniel"}
    assert endings("Martin Luther King") == {"martin luther king"}
    assert endings("") == set()
