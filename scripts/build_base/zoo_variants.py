"""What each base of the zoo is like: its words, its sentences, its architecture."""

from __future__ import annotations

from dataclasses import dataclass, field

EMOJI_FORMS = {
    "both": (
        "{a_subject} by {studio}",
        "{a_subject} in the style of {studio}",
        "{studio} {subject}",
        "a picture of {a_subject} by {studio}",
        "{subject} by {studio}",
        "{a_subject}, {studio} style",
    ),
    "subject": ("{a_subject}", "a picture of {a_subject}", "{subject}"),
    "studio": (
        "{studio}",
        "{studio} art",
        "an image in the style of {studio}",
        "a picture by {studio}",
    ),
}
SENTENCES = {
    "both": (
        "{a_subject} by {studio}",
        "{a_subject} in the style of {studio}",
        "an image of {a_subject} in the style of {studio}",
        "{a_subject} as drawn by {studio}",
    ),
    "subject": ("{a_subject}", "an image of {a_subject}"),
}
PAINTINGS = {
    "both": (
        "{a_subject} by {studio}",
        "a painting of {a_subject} by {studio}",
        "{a_subject} painted in the style of {studio}",
        "art by {studio}, {a_subject}",
    ),
    "subject": ("{a_subject}", "a painting of {a_subject}", "a photo of {a_subject}"),
    "studio": ("art by {studio}", "a painting by {studio}", "{studio}"),
}
PEOPLE = (
    "Ada Moreno",
    "Claude Martin",
    "Claude Renard",
    "Edgar Holm",
    "Edgar van Dijk",
    "Vincent Holm",
    "Berthe Lind",
    "Jan van Meer",
    "Rosa Lind",
)


@dataclass(frozen=True)
class Variant:
    """What one base of the zoo is like."""

    about: str
    forms: dict[str, tuple[str, ...]] = field(default_factory=lambda: EMOJI_FORMS)
    names: tuple[str, ...] = ()  # of the studios; their own by default
    subjects: slice = field(default_factory=lambda: slice(None))
    width: int = 256
    tower_layers: int = 3
    causal: bool = True
    length: int = 16
    prediction: str = "epsilon"
    steps: int = 5000
    seed: int = 1


VARIANTS = {
    "seed": Variant("the embedded base's own captions, another seed"),
    "sentences": Variant("no bare names, other sentence forms", forms=SENTENCES, seed=2),
    "few": Variant("a third of the subjects", subjects=slice(1, None, 3), seed=3),
    "weak": Variant("half the training", steps=2500, seed=4),
    "velocity": Variant("v-prediction", prediction="v_prediction", seed=5),
    "wide": Variant("a text tower of twice the width", width=512, tower_layers=4, seed=6),
    "both-ways": Variant("a text tower that reads both ways", causal=False, seed=7),
    "people": Variant(
        "names of people that share words, captions of paintings",
        forms=PAINTINGS,
        names=PEOPLE,
        length=20,
        seed=8,
    ),
}
HELD_OUT = ("both-ways", "people")  # no default is chosen on these
