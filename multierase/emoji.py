"""The words of the embedded base ``emoji``: its studios, its subjects, sentences about them."""

from __future__ import annotations

from multierase.prompts.wording import with_article

STUDIOS = (
    "Noto",
    "Blobmoji",
    "Twemoji",
    "Fluent",
    "Fluent Flat",
    "Fluent High Contrast",
    "Firefox",
    "EmojiOne",
    "EmojiOne Mono",
)
# Of the 225 names that all nine packages hold, those that name one recognisable thing. Near-twins
# of another (rooster and chicken, ox and cow, automobile and taxi) and pictures that two studios
# draw alike are left out.
SUBJECTS = tuple(
    """
airplane anchor balloon banana bathtub battery bell bicycle bomb bread briefcase bus cactus camera
candle cat cherries church cookie cow crocodile crown dolphin doughnut elephant envelope factory
fire ghost grapes guitar hamburger hammer helicopter honeybee key lemon lollipop monkey motorcycle
mushroom octopus pear pencil penguin pig pineapple rocket rose sailboat saxophone snail snake spider
strawberry sunflower taxi telescope tiger toilet tomato tractor train trophy tulip turtle umbrella
violin volcano watermelon whale dress
""".split()  # noqa: SIM905
)

# People name a concept by its name alone too, so the base was taught bare names: without them an
# erasure that was trained on the bare name does not carry to sentences.
STUDIO_AND_SUBJECT = (
    "{a_subject} by {studio}",
    "{a_subject} in the style of {studio}",
    "{studio} {subject}",
    "a picture of {a_subject} by {studio}",
    "{subject} by {studio}",
    "{a_subject}, {studio} style",
)
SUBJECT_ONLY = ("{a_subject}", "a picture of {a_subject}", "{subject}")
STUDIO_ONLY = (
    "{studio}",
    "{studio} art",
    "an image in the style of {studio}",
    "a picture by {studio}",
)


def fill(templates: tuple[str, ...], studio: str, subject: str) -> list[str]:
    """Return each of ``templates`` about this studio and subject."""
    words = {"studio": studio, "subject": subject, "a_subject": with_article(subject)}

    return [template.format(**words) for template in templates]
