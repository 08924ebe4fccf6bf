"""Names as English writes them: their articles, and which of them are related."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# No article before what has one already, before a number, and before what cannot be counted.
DETERMINED = {"a", "an", "the", "this", "that", "my", "your", "his", "her", "two", "three", "four"}
WITHOUT_ARTICLE = set(
    """
art blood bread broccoli children corn fire fruit furniture geese gore grass hay ice jewelry
luggage men mice nudity people rain rice sand smoke snow violence water women wool
""".split()  # noqa: SIM905
)
SINGULAR = re.compile(r"(ss|us|is|^lens|^gas|^canvas|^atlas)$")
AFTER_NOUN = re.compile(
    r"\s(?:above|after|at|before|behind|beside|by|for|from|full|in|inside|near|next|of|on|over|"
    r"seen|under|with|without)\s|,|\s\("
)
# "an hour" and "an owl", but "a unicycle", "a ukulele", "a ewe".
VOWEL_SOUND = re.compile(
    r"h(?:our|onest|onou?r|eir)|(?!uni[^mn]|us[eu]|uk|eu|ewe|one\b)[aeiou]", re.I
)

# Two names that share one of these need not be related: function words, particles of names,
# colours, sizes, and what every name of a studio ends in.
INSIGNIFICANT = set(
    """
a al an and at ben bin by da de del della den der des di do dos du el for from ibn in la las le les
los of on or over saint st the to van vom von with y zu
black blue brown golden gray green grey red white yellow
big giant great large little old small young
emoji icon
""".split()  # noqa: SIM905
)


def with_article(name: str) -> str:
    """Return ``"an anchor"``, ``"a church"``, but ``"bread"``, ``"Van Gogh"``, ``"the sea"``.

    Names whose noun is capital, plural or uncountable stay as they are, and so do those that begin
    with a word such as "the". The noun is the last word before a preposition.
    """
    words = AFTER_NOUN.split(name)[0].split()
    if not words or words[0].lower() in DETERMINED:
        return name

    noun = words[-1]
    plural = noun.endswith("s") and not SINGULAR.search(noun)
    if plural or noun[0].isupper() or noun in WITHOUT_ARTICLE:
        return name

    return f"{'an' if VOWEL_SOUND.match(name) else 'a'} {name}"


@cache
def plain(name: str) -> str:
    """Return a name in lower case without accents, punctuation, plurals and its article."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(char for char in decomposed if not unicodedata.combining(char))
    words = re.findall(r"\w+", letters)
    if len(words) > 1 and words[0] in ("a", "an", "the"):
        del words[0]

    return " ".join(_singular(word) for word in words)


@cache
def significant_words(name: str) -> frozenset[str]:
    """Return the words of a plain name that it has in common with related ones alone."""
    words = plain(name).split()

    return frozenset(word for word in words if len(word) > 1 and word not in INSIGNIFICANT)


@cache
def endings(name: str) -> frozenset[str]:
    """Return what a name is a kind of: "walker hound" and "hound" for "Walker hound".

    A proper name is itself alone: Martin Luther King is no king.
    """
    words = plain(name).split()
    proper = bool(words) and name.split()[-1][0].isupper()
    starts = range(1 if proper else len(words))

    return frozenset(" ".join(words[start:]) for start in starts)


def _singular(word: str) -> str:
    if len(word) <= 3 or not word.endswith("s") or SINGULAR.search(word):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"

    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes")) else word[:-1]
