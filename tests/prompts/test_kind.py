"""Kinds of concepts: those that are shipped, one's own, and files that are none."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

import multierase
from multierase.emoji import STUDIOS, SUBJECTS
from multierase.errors import UsageError
from multierase.models.scopes import scope_names
from multierase.prompts.kind import Kind, general_captions, load_kind, shipped_kinds
from multierase.prompts.lists import read_prompts
from multierase.prompts.wording import plain

ROOT = Path(__file__).parents[2]
EMOJI = Path(multierase.__file__).parent / "assets" / "emoji"
DOC = ROOT / "docs" / "kinds.md"
KINDS = ["artist", "artwork", "object", "person", "unsafe"]
OF_EMOJI = EMOJI / "kinds"  # the embedded base brings a kind of its own: studio
# The subjects of another base that the defaults are judged on, those of the embedded one aside.
OTHER_BASE = """
ambulance automobile bouquet cloud dog fish fountain horse koala microscope rainbow rat rooster
skull snowflake sunglasses tent
""".split()  # noqa: SIM905
NAMES = {
    "artist": ["Van Gogh", "Hokusai", "El Greco"],
    "artwork": ["Mona Lisa", "The Scream", "Guernica"],
    "object": ["otter", "garbage truck", "scissors"],
    "person": ["Marie Curie", "Pelé", "an astronaut"],
    "studio": ["Noto", "Fluent Flat", "OpenMoji"],
    "unsafe": ["nudity", "violence", "blood"],
}
OWN = {
    "about": "a breed of apples",
    "sentences": {"{a_name}": "", "{a_name} on {a_subject}": "{a_subject}"},
    "subjects": ["table", "tray"],
}


@pytest.fixture
def written(tmp_path):
    def write(changes: dict | str, name: str = "apple.yaml") -> Path:
        path = tmp_path / name
        text = changes if isinstance(changes, str) else yaml.safe_dump({**OWN, **changes})
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(params=[*KINDS, "studio"])
def shipped(request):
    return load_kind(request.param, OF_EMOJI)


def test_the_shipped_kinds():
    assert shipped_kinds() == KINDS


def test_a_shipped_kind_is_whole(shipped):
    assert shipped.about
    assert "\n" not in shipped.about
    assert 12 <= len(shipped.sentences) <= 24
    assert 60 <= len(shipped.subjects) <= 120
    assert shipped.scope in scope_names()
    least = {"artist": 200, "object": 1200, "person": 150, "artwork": 100, "studio": 30}
    assert len(shipped.beside) >= least.get(shipped.name, 0)
    least = {"unsafe": 80, "person": 40}
    assert len(shipped.keep) >= least.get(shipped.name, 30)


def test_what_unsafe_takes_from_the_paper():
    unsafe = load_kind("unsafe")
    assert (unsafe.scope, unsafe.eta) == ("esd-u", 1.0)
    assert {load_kind(kind).eta for kind in KINDS if kind != "unsafe"} == {None}


def test_sentences_are_english(shipped):
    """One article each, "an" before a vowel, no hole, no brace, no blank too many."""
    for name in NAMES[shipped.name]:
        for subject in shipped.subjects:
            texts = set()
            for template in shipped.sentences:
                sentence, context = shipped.sentence(template, name, subject)
                assert name in sentence
                assert name not in context
                assert sentence != context
                texts |= {sentence, context}
            for text in texts:
                assert text == " ".join(text.split())
                assert not re.search(r"[{}]|\ban? (an?|the|two)\b|\ba [aeio]|\ban [^aeiouh]", text)
                assert not re.search(r"^\W|[ ,]$| ,", text)


def test_sentences_are_distinct(shipped):
    name, subject = NAMES[shipped.name][0], shipped.subjects[0]
    sentences = [shipped.sentence(template, name, subject)[0] for template in shipped.sentences]
    assert len(set(sentences)) == len(sentences)


def test_a_sentence_and_its_context():
    artist, person = load_kind("artist"), load_kind("person")
    template = "a painting of {a_subject} by {name}"
    assert artist.sentence(template, "Van Gogh", "owl") == (
        "a painting of an owl by Van Gogh",
        "a painting of an owl",
    )
    assert person.sentence("a photo of {a_name}", "nurse", "owl") == (
        "a photo of a nurse",
        "a photo of a person",
    )


def test_the_embedded_bases_subjects_are_held_out(shipped):
    """So what is measured on that base is about words that no shipped sentence has."""
    listed = {*SUBJECTS, *OTHER_BASE}
    for tagged in read_prompts(EMOJI / "prompts.csv"):
        listed |= tagged.concepts - {studio.lower() for studio in STUDIOS}
    held_out = {plain(subject) for subject in listed}
    assert len(held_out) > 80

    templates = [*shipped.sentences, *shipped.sentences.values()]
    for text in (*templates, *shipped.subjects, *shipped.keep, *general_captions()):
        assert not held_out & set(plain(text).split()), text


def test_a_studio_has_no_sentence_that_is_measured_as_unlisted():
    tree = ast.parse((ROOT / "benchmarks" / "studios.py").read_text())
    unlisted = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "CANDIDATES"
    )
    studio = load_kind("studio", OF_EMOJI)
    assert len(unlisted) == 17
    assert not {form.replace("{studio}", "{name}") for form in unlisted} & {*studio.sentences}
    assert not {name.lower() for name in studio.beside} & {name.lower() for name in STUDIOS}


def test_general_captions_are_many_and_name_nobody():
    captions = general_captions()
    assert len(captions) == len(set(captions)) >= 300
    assert all(caption == caption.strip() == caption.lower() != "" for caption in captions)

    artist, person, unsafe = load_kind("artist"), load_kind("person"), load_kind("unsafe")
    people = [name for name in person.beside if not name.startswith(("a ", "an "))]
    for caption in (*captions, *artist.keep, *unsafe.keep):
        assert [name for name in artist.beside if artist.mentions(name, caption)] == []
        assert [name for name in people if person.mentions(name, caption)] == []
        assert not re.search(r"\b(nud|naked|sex|gore|kill|weapon)", caption)


def test_imagenets_thousand_are_beside_an_object():
    classes = (EMOJI.parent / "imagenet.txt").read_text().splitlines()
    assert load_kind("object").beside[:1000] == tuple(classes)


@pytest.mark.parametrize(
    ("kind", "concept", "left_out"),
    [
        ("artist", "Van Gogh", {"Vincent van Gogh"}),
        ("artist", "salvador dali", {"Salvador Dalí"}),  # neither case nor accents differ
        ("artist", "Nobody", set()),
        ("artist", "Jan van der Meer", {"Jan van Eyck"}),  # not every van and der
        ("person", "Barack Obama", {"Barack Obama", "Michelle Obama"}),
        ("artwork", "La Joconde", {"Mona Lisa"}),  # another name of the same
        ("studio", "Material Icons", {"Material Icons"}),  # not everything called icons
        ("object", "church", {"church", "chapel", "cathedral", "monastery", "bell cote"}),
        ("object", "churches", {"church", "chapel", "cathedral", "monastery", "bell cote"}),
        ("object", "parachute", {"parachute"}),
        ("unsafe", "nudity", set()),
    ],
)
def test_names_beside_a_concept(kind, concept, left_out):
    loaded = load_kind(kind, OF_EMOJI)
    kept = loaded.names_beside(concept)
    assert set(loaded.beside) - set(kept) == left_out
    assert list(kept) == [name for name in loaded.beside if name in kept]  # in their order


def test_a_class_is_alike_to_each_of_its_members_and_they_are_not_to_one_another():
    thing = load_kind("object")
    beside_dog, beside_pug = set(thing.names_beside("dog")), set(thing.names_beside("pug"))
    assert not {"pug", "beagle", "Walker hound", "Eskimo dog", "puppy"} & beside_dog
    assert {"beagle", "Walker hound", "puppy", "tabby"} <= beside_pug
    assert not {"pug", "dog"} & beside_pug


def test_what_a_concept_ends_in_counts_where_it_is_not_listed_itself():
    thing = load_kind("object")
    assert "cab" not in thing.names_beside("vintage car")
    assert "sausage" not in thing.names_beside("hot dog")
    assert "pug" in thing.names_beside("hot dog")


@pytest.mark.parametrize(
    ("concept", "text", "mentioned"),
    [
        ("car", "a row of parked cars", True),
        ("car", "taxi", True),
        ("car", "a carpet in a hall", False),
        ("garbage truck", "an old truck in a field", True),
        ("owl", "a bowl of soup", False),
    ],
)
def test_captions_that_mention_a_concept(concept, text, mentioned):
    assert load_kind("object").mentions(concept, text) is mentioned


def test_ones_own_kind(written):
    path = written({"eta": 2, "scope": None, "alike": [["Gala", "Fuji"], {"Boskoop": ["Roter"]}]})
    kind = load_kind(path)
    groups = (frozenset({"Gala", "Fuji"}), frozenset({"Boskoop", "Roter"}))
    assert kind == Kind(
        "apple", "a breed of apples", OWN["sentences"], ("table", "tray"), alike=groups, eta=2
    )
    assert load_kind(str(path)) == load_kind("apple", path.parent) == kind


def test_a_bases_own_kind_comes_before_the_shipped(written):
    path = written({}, "artist.yaml")
    assert load_kind("artist", path.parent).about == "a breed of apples"
    assert load_kind("person", path.parent) == load_kind("person")


def test_names_beside_may_come_from_a_file(written):
    path = written({"beside": ["Gala"], "beside_file": "breeds.txt"})
    (path.parent / "breeds.txt").write_text("Fuji\n\n Cox \n", encoding="utf-8-sig")
    assert load_kind(path).beside == ("Fuji", "Cox", "Gala")

    (path.parent / "breeds.txt").write_text("gala\n")
    with pytest.raises(UsageError, match="beside has 'Gala' twice: list it once"):
        load_kind(path)

    (path.parent / "breeds.txt").write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match="breeds.txt cannot be read as UTF-8 text"):
        load_kind(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentance": 1}, r"unknown key 'sentance'; did you mean 'sentences'?; keys are ['about',"),
        ({"name": "apple"}, "unknown key 'name'"),
        ({"about": 3}, "about is 3; give a line of text"),
        ({"subjects": []}, "subjects is empty; give one or more"),
        ({"sentences": {}}, "sentences is empty; give one or more"),
        ({"subjects": "table"}, "subjects is 'table'; give a list of texts"),
        ({"keep": ["a table", True]}, "keep is a list with True; give a list of texts, what YAML"),
        ({"beside": [1948]}, "beside is a list with 1948; give"),
        ({"beside": ["Gala", "gala"]}, "beside has 'gala' twice: list it once"),
        ({"subjects": ["table", "table"]}, "subjects has 'table' twice: list it once"),
        ({"beside_file": "no.txt"}, "beside_file: no list of names at"),
        ({"beside_file": "apple.yaml"}, "give a .txt, one name a line"),
        ({"alike": ["Gala", "Fuji"]}, "alike is ['Gala', 'Fuji']; give a list of groups: lists of"),
        ({"alike": [{"Gala": "Fuji"}]}, "alike is a list with {'Gala': 'Fuji'}; give a list of"),
        ({"scope": 1}, "scope is 1; give a scope's name"),
        ({"anchor": None}, "anchor is None; give a prompt"),
        ({"eta": "3"}, "eta is '3'; give a number"),
        ({"eta": float("nan")}, "eta is nan; give a number"),
        ({"sentences": ["{name}"]}, "sentences is ['{name}']; give by template its context"),
        ({"sentences": {"{name}": None}}, "sentences is {'{name}': None}; give by template its"),
        (
            {"sentences": {"a photo": ""}},
            "sentence 'a photo' with context '' has no place for the concept: give {name} or",
        ),
        (
            {"sentences": {"{nmae}": ""}},
            "unknown {nmae}; did you mean '{name}'?; give {a_name}, {a_subject}, {name}, {subject}",
        ),
        ({"sentences": {"{name.__class__}": ""}}, "unknown {name.__class__}"),
        ({"sentences": {"{name} {": ""}}, "a brace without its other one"),
        ({"sentences": {"{{name}}": ""}}, "a brace without its other one"),
        (
            {"sentences": {"{name}, {subject}": "{name}"}},
            "the context names the concept, leave it out there",
        ),
        (
            {"sentences": {"{name}, {subject}": "{a_subject}"}},
            "the context may have only the sentence's own form of the subject",
        ),
    ],
)
def test_a_file_that_is_no_kind(written, changes, message):
    path = written(changes)
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        load_kind(path)
    assert str(raised.value).startswith(f"kind {path}:")


def test_all_that_is_wrong_is_said_at_once(written):
    path = written(
        {
            "sentance": 1,
            "eta": "3",
            "subjects": [],
            "sentences": {"{nmae}": "{name}"},
            "beside": ["a", "A"],
        }
    )
    with pytest.raises(UsageError) as raised:
        load_kind(path)
    assert len(str(raised.value).splitlines()) == 1 + 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is None; give the keys ['about', 'alike',"),
        ("- a\n- b", "is ['a', 'b']; give the keys"),
        ("a: [", "cannot be read as YAML"),
        ("a: 2026-99-99", "cannot be read as YAML"),
        ("!!python/object:os.system {}", "cannot be read as YAML"),
        ("# " + "x" * 2**20, "is larger than 1048576 bytes"),
        ("about: an apple", "no sentences: give by template its context"),
    ],
)
def test_a_file_that_is_no_mapping(written, text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        load_kind(written(text))


def test_a_kind_that_does_not_exist(written):
    folder = written({}).parent
    with pytest.raises(UsageError, match=r"no kind 'artits'; did you mean 'artist'\?"):
        load_kind("artits")
    with pytest.raises(UsageError, match=r"no kind 'aple'; did you mean 'apple'\?; give one of"):
        load_kind("aple", folder)
    with pytest.raises(UsageError, match=r"no kind at .*none.yaml: give a YAML file, or one of"):
        load_kind(folder / "none.yaml")
    with pytest.raises(UsageError, match=r"no kind at \.\./artist"):
        load_kind("../artist")


def test_the_documents_example_loads(tmp_path):
    example = re.search(r"```yaml\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S).group(1)
    path = tmp_path / "watch.yaml"
    path.write_text(example, encoding="utf-8")
    kind = load_kind(path)
    assert kind.sentence("{a_name} on {a_subject}", "Omega", "table") == (
        "Omega on a table",
        "a table",
    )
    assert kind.names_beside("Tudor") == ("Casio", "Omega", "Seiko", "Swatch")
    assert kind.mentions("Rolex", "a Tudor on a desk")


def test_the_documents_table_is_what_is_shipped(shipped):
    numbers = (shipped.sentences, shipped.subjects, shipped.beside, shipped.keep, shipped.alike)
    cells = [f"`{shipped.name}`", shipped.about, *(str(len(number)) for number in numbers)]
    cells += [f"`{shipped.scope}`", "" if shipped.eta is None else str(shipped.eta)]
    assert "| " + " | ".join(cells).replace("|  |", "| |") in DOC.read_text(encoding="utf-8")
