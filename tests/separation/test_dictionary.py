"""The dictionary: each word comes once before one comes again, and what is erased is left out."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import torch
import yaml
from compositions import random_increment
from test_keep_list import DAMAGES, rewritten

from multierase import KeepList, Library, TaggedPrompt, Workspace
from multierase.files import digest_tensors
from multierase.increments.provenance import Separation
from multierase.prompts.kind import Kind
from multierase.prompts.wording import with_article
from multierase.separation import forms, vocabulary
from multierase.separation.dictionary import MOST_MOVED, Dictionary
from multierase.separation.directions import gram
from multierase.separation.forms import BATCH, MOST, RIDGE, SETTLED, Form, novelty
from multierase.separation.vocabulary import CAPTIONS, MOST_WORDS
from multierase.training.beside import MOST_SIBLINGS

PHOTO, BESIDE, BARE = "a photo of {a_name}", "{a_subject} beside {a_name}", "{name}"
THINGS = Kind(
    name="thing",
    about="things",
    sentences={PHOTO: "a photo", BESIDE: "{a_subject}", BARE: ""},
    subjects=("desk", "cat"),
    beside=("church", "chapel", "barn", "cow bell", "old church"),
    keep=("a chapel in the snow", "the churches of a town", "a barn"),
    alike=(frozenset({"church", "chapel"}),),
)


@pytest.fixture(autouse=True)
def nothing_was_filled_before(monkeypatch):
    monkeypatch.setattr(forms, "_filled_before", WeakKeyDictionary())


@pytest.fixture
def things(tiny):
    return Dictionary.of(tiny, THINGS, [PHOTO, BESIDE])


def unread(count: int) -> Form:
    """A form of so many sentences, none of them encoded."""
    return Form({}, {}, {"tokens": torch.empty(count, 0)})


def covariance_of(model, prompts: list[str]) -> torch.Tensor:
    """``Eᵀ E`` of all tokens, in units of the mean variance."""
    tokens = model.fresh_tokens(prompts)["tokens"].double()

    return tokens.T @ tokens / tokens.square().sum() * tokens.shape[1]


def prompts_of(found: Dictionary, template: str) -> list[str]:
    return [each.prompt for each in found.sentences[template]]


# Its words.


def test_its_words_are_the_bases_own_and_then_the_kinds(tiny, monkeypatch):
    found = Dictionary(tiny, replace(THINGS, subjects=("desk", "cat", "☃")), {})
    assert found.words == [*tiny.words(), "desk"]  # "cat" is a word already, "☃" has no token
    assert len(tiny.words()) < MOST_WORDS

    monkeypatch.setattr(vocabulary, "MOST_WORDS", 3)
    assert found.words == [*tiny.words()[:3], "desk", "cat"]


def test_every_word_comes_once_before_one_comes_again(tiny):
    """Of four sentences one is a context alone, one names something, two have a word there."""
    found = Dictionary(tiny, THINGS, {BARE: unread(2048)})
    prompts = prompts_of(found, BARE)
    words, contexts = found.words, prompts[0::4]
    assert len(contexts) > 3 * len(words)
    starts = range(0, len(contexts) - len(words), len(words))
    rounds = [contexts[start : start + len(words)] for start in starts]
    assert [sorted(one) for one in rounds] == [sorted(map(with_article, words))] * len(rounds)
    assert rounds[0] != rounds[1]  # each in an order of its own

    names = prompts[1::4]
    for start in range(0, 50, 5):
        assert sorted(names[start : start + 5]) == sorted(THINGS.beside)
    others = [prompt for pair in zip(prompts[2::4], prompts[3::4], strict=True) for prompt in pair]
    assert sorted(others[: len(words)]) == sorted(words)
    assert sorted(others[len(words) : 2 * len(words)]) == sorted(words)


def test_a_kind_without_names_has_words_in_their_place(tiny):
    found = Dictionary(tiny, replace(THINGS, beside=()), {BARE: unread(800)})
    words = found.words
    assert sorted(prompts_of(found, BARE)[1::4][: len(words)]) == sorted(words)


def test_a_sentence_says_what_fills_it(tiny):
    found = Dictionary(tiny, THINGS, {BESIDE: unread(400)})
    for each in found.sentences[BESIDE]:
        subject, _, name = each.prompt.lower().partition(" beside ")
        texts = [re.sub(r"^an? ", "", text) for text in (subject, name) if text]
        assert each.filled == {*texts, *texts[-1].split()}
    assert {"cow bell", "cow", "bell"} <= set().union(
        *(each.filled for each in found.sentences[BESIDE])
    )


def test_a_subject_that_a_form_has_no_place_for_fills_nothing(tiny):
    found = Dictionary(tiny, THINGS, {PHOTO: unread(40), BARE: unread(40)})
    photos, bare = found.sentences[PHOTO], found.sentences[BARE]
    assert {(each.prompt, each.filled) for each in photos[0::4]} == {("a photo", frozenset())}
    for each in photos[1::4]:
        name = re.sub("^a photo of an? ", "", each.prompt)
        assert each.filled == {name, *name.split()}
    for each in bare[0::4]:
        assert each.filled == {re.sub("^an? ", "", each.prompt)}


def test_its_sentences_are_the_same_each_time_and_others_in_another_form(tiny):
    counts = {PHOTO: unread(300), BESIDE: unread(300)}
    one, other = Dictionary(tiny, THINGS, counts), Dictionary(tiny, THINGS, dict(counts))
    assert one.sentences == other.sentences
    bare = Dictionary(tiny, THINGS, {BARE: unread(300)})
    assert [s.filled for s in bare.sentences[BARE]] != [s.filled for s in one.sentences[PHOTO]]


def test_only_what_is_read_whole_is_listed(tiny):
    found = Dictionary.of(tiny, replace(THINGS, beside=("a b c d e f g h i j k", "☃")), [BESIDE])
    prompts = [prompt for template in found.forms for prompt in prompts_of(found, template)]
    assert len(prompts) == found.count
    assert all(tiny.reads_whole(prompt) for prompt in prompts)
    assert not any("☃" in prompt or "a b c" in prompt for prompt in prompts)


# How many sentences there are.


def test_novelty_is_none_for_more_of_the_same():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(16, 16, generator=generator)
    listed, drawn = (gram(torch.randn(4000, 16, generator=generator) @ mixed) for _ in range(2))
    assert abs(novelty(listed, drawn)) < 0.05
    assert novelty(listed, 7 * drawn) == pytest.approx(novelty(listed, drawn), abs=1e-9)
    assert novelty(3 * listed, drawn) == pytest.approx(novelty(listed, drawn), abs=1e-9)


def test_novelty_is_large_for_a_direction_that_was_left_out():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4000, 16, generator=generator)
    half = tokens.clone()
    half[:, 8:] = 0
    other = tokens - half
    # Its variance is the ridge's alone, and the listed half's two.
    assert novelty(gram(half), gram(other)) == pytest.approx(2 / RIDGE, rel=0.05)
    assert novelty(gram(half), gram(tokens)) == pytest.approx(1 / RIDGE, rel=0.05)
    assert abs(novelty(gram(half), gram(half))) < 1e-9


def test_novelty_agrees_with_distances_token_by_token():
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(0.1, 3, 12)
    listed = torch.randn(500, 12, generator=generator).double() * scales
    drawn = torch.randn(300, 12, generator=generator).double() * scales.flip(0)
    unit = [tokens / tokens.square().sum(1).mean().div(12).sqrt() for tokens in (listed, drawn)]
    inverse = torch.linalg.inv(unit[0].T @ unit[0] / 500 + RIDGE * torch.eye(12))
    near, far = (torch.stack([e @ inverse @ e for e in tokens]).mean() for tokens in unit)
    assert novelty(gram(listed), gram(drawn)) == pytest.approx((far / near - 1).item(), rel=1e-6)


def test_a_form_ends_when_new_sentences_are_no_news(tiny, things):
    for template in (PHOTO, BESIDE):
        count, prompts = things.forms[template].count, prompts_of(things, template)
        assert count == len(prompts)
        assert count % BATCH == 0
        parts = [prompts[start : start + BATCH] for start in range(0, count, BATCH)]
        news = [
            novelty(
                gram(tiny.fresh_tokens(prompts[: BATCH * place])["tokens"]),
                gram(tiny.fresh_tokens(parts[place])["tokens"]),
            )
            for place in range(1, len(parts))
        ]
        assert [new > SETTLED for new in news] == [True] * (len(news) - 1) + [False]


def test_a_form_that_never_settles_ends_too(tiny, monkeypatch):
    monkeypatch.setattr(forms, "SETTLED", -1.0)
    monkeypatch.setattr(forms, "MOST", 3 * BATCH)
    found = Dictionary.of(tiny, THINGS, [PHOTO])
    assert found.forms[PHOTO].count == 3 * BATCH < MOST


def test_a_tokenizer_that_cuts_everything_off_ends(tiny):
    (reader,) = tiny.text.readers
    reader.tokenizer = copy.deepcopy(reader.tokenizer)  # the fixture's is shared
    reader.tokenizer.model_max_length = 2
    found = Dictionary.of(tiny, THINGS, [PHOTO, BESIDE])
    assert (found.count, dict(found.forms)) == (0, {})


def test_a_base_without_any_word_ends(tiny):
    vars(tiny.text)["words"] = []
    found = Dictionary.of(tiny, replace(THINGS, subjects=("☃",)), [PHOTO])
    assert list(found.forms) == [CAPTIONS]


# What it keeps.


@pytest.mark.parametrize(
    "erased", [[], ["church"], ["Churches"], ["barn"], ["barn", "chapel"], list(THINGS.beside)]
)
def test_its_gram_is_that_of_what_is_about_nothing_erased(tiny, things, erased):
    """Related are a church, churches and a chapel; "old church" is one too."""
    about = {
        "church": r"\bchurch(es)?\b|\bchapels?\b",
        "chapel": r"\bchurch(es)?\b|\bchapels?\b",
        "churches": r"\bchurch(es)?\b|\bchapels?\b",
        "barn": r"\bbarns?\b",
        "cow bell": r"\bcow bells?\b|\bcow\b|\bbell\b",
        "old church": r"\bold church\b|\bold\b|\bchurch\b",
    }
    gone = [re.compile(about[name.lower()]) for name in erased]
    expected, left_out = 0, 0
    for template in (CAPTIONS, PHOTO, BESIDE):
        prompts = prompts_of(things, template)
        kept = [prompt for prompt in prompts if not any(one.search(prompt) for one in gone)]
        expected += covariance_of(tiny, kept)
        left_out += len(prompts) - len(kept)
    assert (left_out > 50) == bool(erased)

    found = things.gram("tokens", erased)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if erased:
        assert not torch.allclose(found, things.gram("tokens", []), rtol=1e-4, atol=1e-4)


def test_of_many_erased_names_those_that_stay_are_encoded(tiny, things, monkeypatch):
    """Sentences that name something are a fourth of a form: most of them need not be read."""
    read, encode = [], type(tiny).fresh_tokens
    monkeypatch.setattr(
        type(tiny),
        "fresh_tokens",
        lambda self, prompts: read.extend(prompts) or encode(self, prompts),
    )
    erased = ["church", "barn"]  # with their kin all but "cow bell"
    things.gram("tokens", erased)
    named = [one.prompt for form in (PHOTO, BESIDE) for one in things.sentences[form] if one.named]
    gone = [prompt for prompt in named if "cow bell" not in prompt]
    assert len(gone) > len(named) / 2
    assert {prompt for prompt in named if "cow bell" in prompt} <= set(read)
    assert len(read) < len(gone)


def test_captions_are_a_form_that_is_no_template(things, tiny):
    captions = prompts_of(things, CAPTIONS)
    assert captions[-3:] == list(THINGS.keep)
    torch.testing.assert_close(
        things.forms[CAPTIONS].grams["tokens"], gram(tiny.fresh_tokens(captions)["tokens"])
    )


def test_each_form_weighs_the_same(tiny, things):
    heavy = {
        template: replace(form, grams={"tokens": place * form.grams["tokens"]})
        for place, (template, form) in enumerate(things.forms.items(), 2)
    }
    torch.testing.assert_close(
        replace(things, forms=heavy).gram("tokens", []), things.gram("tokens", [])
    )


@pytest.mark.parametrize("erased", [[], ["church", "barn"]])
def test_what_moves_most_is_named_once_more_but_for_what_is_erased(tiny, things, erased):
    """By hand: the mean token of every sentence, encoded alone."""
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(7, 32, generator=generator, dtype=torch.float64)
    apart = [re.compile(r"\bchurch(es)?\b|\bchapels?\b|\bbarns?\b")] if erased else []
    moved = []
    for template in (CAPTIONS, PHOTO, BESIDE):
        for prompt in prompts_of(things, template):
            mean = tiny.encode([prompt])["tokens"][0].double().mean(0)
            if not any(one.search(prompt) for one in apart):
                moved.append(((change @ mean).norm().item(), prompt))

    moved.sort(key=lambda pair: -pair[0])
    most = [prompt for _, prompt in moved[:MOST_MOVED]]
    found = things.most_moved("tokens", erased, change.T @ change)
    torch.testing.assert_close(found, gram(tiny.fresh_tokens(most)["tokens"]), rtol=1e-6, atol=1e-6)


def test_nothing_that_moves_is_nothing_more(tiny):
    empty = Dictionary(tiny, THINGS, {})
    assert not empty.most_moved("tokens", [], torch.ones(32, 32, dtype=torch.float64)).any()


def test_the_prompts_are_not_remembered(tiny, things):
    assert things.count > 1000
    assert len(tiny.text._cache) < 10


# Filled before.


@pytest.fixture
def filled(tiny, tmp_path, monkeypatch):
    """Make a dictionary in a folder; return it, and the forms that were filled anew."""
    whole, made = forms._filled, []

    def counted(model, kind, template):
        made.append(template)
        return whole(model, kind, template)

    monkeypatch.setattr(forms, "_filled", counted)
    monkeypatch.setattr(forms, "BATCH", 64)  # many are made, and it is not what is tested

    def filled(kind=THINGS, folder=tmp_path, templates=(PHOTO,), forget=True):
        made.clear()
        if forget:
            forms._filled_before.clear()
        return Dictionary.of(tiny, kind, templates, folder), list(made)

    return filled


def assert_same(one: Dictionary, other: Dictionary) -> None:
    assert one.forms.keys() == other.forms.keys()
    for template, form in one.forms.items():
        again = other.forms[template]
        assert again.count == form.count
        assert torch.equal(again.grams["tokens"], form.grams["tokens"])
        assert torch.equal(again.means["tokens"], form.means["tokens"])


def test_what_is_read_back_has_the_same_bits(filled, tmp_path):
    first, made = filled()
    assert made == [CAPTIONS, PHOTO]
    assert sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir()) == [
        ".dictionary-thing",
        ".dictionary-thing",
    ]
    again, made = filled()
    assert made == []
    assert_same(first, again)


def test_a_process_fills_a_form_once_with_or_without_a_folder(filled, tmp_path):
    first, _ = filled(folder=None)
    assert list(tmp_path.iterdir()) == []
    again, made = filled(forget=False)
    assert made == []
    assert_same(first, again)
    assert filled(templates=(PHOTO, BESIDE), forget=False)[1] == [BESIDE]


@pytest.mark.slow
@pytest.mark.parametrize("forget", [True, False], ids=["file", "process"])
@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"subjects": ("table",)}, [PHOTO]),
        ({"beside": ("barn",)}, [PHOTO]),
        ({"sentences": {**THINGS.sentences, PHOTO: "a picture"}}, [PHOTO]),
        ({"keep": ("a barn",)}, [CAPTIONS]),
    ],
)
def test_another_kind_is_made_anew(filled, change, made, forget):
    first, _ = filled()
    other, found = filled(kind=replace(THINGS, **change), forget=forget)
    assert set(made) <= set(found)
    for template in made:
        tensors = [each.forms[template].grams["tokens"] for each in (first, other)]
        assert not torch.equal(*tensors)


def test_captions_that_differ_late_are_made_anew(filled, tiny):
    many = tuple(tiny.words())
    assert len(many) > 100
    first, _ = filled(kind=replace(THINGS, keep=(*many, "a barn")))
    assert CAPTIONS in filled(kind=replace(THINGS, keep=(*many, "a church")))[1]
    again, made = filled(kind=replace(THINGS, keep=(*many, "a barn")))
    assert made == [CAPTIONS]  # the other one took its place
    assert_same(first, again)


def test_another_encoder_is_made_anew(filled, tiny):
    filled()
    tiny.pipeline.text_encoder.get_input_embeddings().weight.mul_(1.1)
    tiny.text._cache.clear()
    assert filled()[1] == [CAPTIONS, PHOTO]
    assert filled()[1] == []


def damaged(about: str, means):
    """Change the rows of a form's sentences, in a file whose digest is right."""

    def change(tensors, metadata):
        rows = tensors.pop("tokens means")
        tensors |= {name: of.contiguous() for name, of in means(rows).items()}
        metadata["sha256"] = digest_tensors(tensors)

    def damage(path):
        rewritten(path, change)

    damage.__name__ = about
    return damage


MEANS = [
    damaged("no rows", lambda _: {}),
    damaged("rows of another name", lambda rows: {"tokens mean": rows}),
    damaged("none of the sentences", lambda rows: {"tokens means": rows[:0]}),
    damaged("too many", lambda rows: {"tokens means": rows[:1].expand(MOST + BATCH, -1)}),
    damaged("too narrow", lambda rows: {"tokens means": rows[:, 1:]}),
    damaged("a number", lambda rows: {"tokens means": rows[0, 0]}),
    damaged("not finite", lambda rows: {"tokens means": rows / 0}),
]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGES, *MEANS], ids=lambda damage: damage.__name__)
def test_damage_is_survived(filled, tmp_path, damage):
    first, _ = filled()
    for path in tmp_path.iterdir():
        damage(path)
    again, made = filled()
    assert made == [CAPTIONS, PHOTO]
    assert_same(first, again)
    assert filled()[1] == []


def test_a_folder_that_cannot_be_written_is_survived(filled, tmp_path, caplog):
    for _ in range(2):
        found, made = filled(folder=tmp_path / "missing")
        assert made == [CAPTIONS, PHOTO]
        assert found.forms[PHOTO].count >= 64
    assert "could not be cached" in caplog.text
    assert list(tmp_path.iterdir()) == []


# Beside a keep-list.


def test_a_keep_lists_lists(tiny, things):
    prompts = [TaggedPrompt("a dog"), TaggedPrompt("a barn by Dali", frozenset({"barn"}))]
    listed, empty = KeepList.of(tiny, prompts, ["barn"]), KeepList.of(tiny, [], ["barn"])
    other = Dictionary.of(tiny, THINGS, [BARE])

    def same(found, expected):
        assert len(found) == len(expected)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))

    for erased in ([], ["barn"]):
        own = listed.gram("tokens", erased)
        dictionaries = [each.gram("tokens", erased) for each in (things, other)]
        same(listed.lists("tokens", iter(erased)), [own])
        same(empty.lists("tokens", erased), [empty.gram("tokens", [])])
        same(listed.beside([things, other]).lists("tokens", iter(erased)), [*dictionaries, own])
        # The empty prompt alone is no list beside one.
        same(empty.beside([things]).lists("tokens", erased), dictionaries[:1])
    assert not torch.equal(listed.gram("tokens", []), listed.gram("tokens", ["barn"]))
    assert listed.dictionaries == ()


def test_siblings_are_a_list_of_their_own_until_they_are_erased(tiny, things):
    near = replace(things, siblings=("barn", "Cow Bell", "barn"))
    list_of = KeepList.of(tiny, [], ["barn"]).beside([near]).lists
    whole, siblings = list_of("tokens", ["church"])
    assert torch.equal(whole, things.gram("tokens", ["church"]))
    assert len(list_of("tokens", ["Barn", "cow bell"])) == 1
    one, both = (near.about_siblings("tokens", gone) for gone in (["BARN"], []))
    assert torch.equal(both, siblings)
    assert one.trace() < both.trace()


def test_what_is_said_of_siblings_is_in_every_form(tiny, things, monkeypatch):
    read, whole = [], type(tiny).fresh_tokens

    def recorded(self, prompts, *args):
        read.extend(prompts)
        return whole(self, prompts, *args)

    monkeypatch.setattr(type(tiny), "fresh_tokens", recorded)
    replace(things, siblings=("barn", "bell")).about_siblings("tokens", [])
    for name in ("barn", "bell"):
        assert 1 < len([prompt for prompt in read if prompt.endswith(f"beside a {name}")]) <= 8
        assert f"a photo of a {name}" in read
    assert all("barn" in prompt or "bell" in prompt for prompt in read)


def test_without_siblings_or_forms_there_is_no_list_of_them(tiny, things):
    assert things.about_siblings("tokens", []) is None
    captions = {CAPTIONS: things.forms[CAPTIONS]}
    assert Dictionary(tiny, THINGS, captions, ("barn",)).about_siblings("tokens", []) is None
    unreadable = replace(things, siblings=("barn " * 30,))
    assert unreadable.about_siblings("tokens", []) is None


# Of a library.


@pytest.fixture
def kind_file(tmp_path):
    path = tmp_path / "thing.yaml"
    keys = ("about", "sentences", "subjects", "beside", "keep")
    read = {key: getattr(THINGS, key) for key in keys}
    texts = {key: list(value) if isinstance(value, tuple) else value for key, value in read.items()}
    path.write_text(yaml.safe_dump({**texts, "alike": [["church", "chapel"]]}, sort_keys=False))
    return str(path)


@pytest.fixture
def library(tiny, tmp_path):
    """Make a library of increments that were trained beside these forms of these kinds."""

    def library(*made: tuple[object, object], siblings: object = ()) -> Library:
        library = Library(tmp_path / "library", create=True)
        for place, (kind, templates) in enumerate(made):
            increment = random_increment(tiny, f"concept {place}", "esd-x-strict", place)
            in_mean = {"prompts": 0, "forms": templates, "siblings": siblings}
            provenance = replace(
                increment.provenance,
                settings={"kind": kind},
                separation=Separation(("",), in_mean),
            )
            library.save(replace(increment, provenance=provenance))
        return library

    return library


def test_a_workspace_keeps_the_forms_that_its_increments_were_trained_beside(
    tiny, library, kind_file
):
    made = [(kind_file, [BARE]), (kind_file, [PHOTO, BARE]), (kind_file, None)]
    workspace = Workspace(library(*made), tiny)
    (found,) = workspace.keep_list.dictionaries
    assert list(found.forms) == [CAPTIONS, PHOTO, BARE]  # in the kind's order
    assert found.kind == THINGS
    assert workspace.composer.solve == "joint"  # though the base lists no prompt

    expected = Dictionary.of(tiny, THINGS, [PHOTO, BARE])
    (kept,) = workspace.keep_list.lists("tokens", ["church"])
    assert torch.equal(kept, expected.gram("tokens", ["church"]))
    folder = workspace.library.folder
    assert len([path for path in folder.iterdir() if path.name.startswith(".dictionary")]) == 3


@pytest.mark.parametrize(
    ("siblings", "found"),
    [(["barn", "bell"], ("barn", "bell")), ([3, None], ("3", "None")), ("barn", ()), (7, ())],
)
def test_a_workspace_keeps_its_increments_siblings(tiny, library, kind_file, siblings, found):
    made = [(kind_file, [BARE]), (kind_file, [PHOTO])]
    (kept,) = Workspace(library(*made, siblings=siblings), tiny).keep_list.dictionaries
    assert kept.siblings == found


def test_one_file_does_not_name_too_many_siblings(tiny, library, kind_file):
    many = [f"barn {place}" for place in range(500)]
    (kept,) = Workspace(library((kind_file, [BARE]), siblings=many), tiny).keep_list.dictionaries
    assert len(kept.siblings) == MOST_SIBLINGS


def test_a_kind_that_is_gone_is_told(tiny, library, caplog):
    workspace = Workspace(library(("artits", ["{name}"])), tiny)
    assert workspace.keep_list is None
    assert "no dictionary is kept: no kind 'artits'; did you mean 'artist'?" in caplog.text


@pytest.mark.parametrize("forms", [3, "abc", {"a": 1}, [], True])
def test_forms_that_are_none_are_not_kept(tiny, library, kind_file, forms):
    assert Workspace(library((kind_file, forms)), tiny).keep_list is None


def test_forms_that_the_kind_has_not_are_not_kept(tiny, library, kind_file):
    workspace = Workspace(library((kind_file, [["x"], 3, "{name.__class__}", BARE])), tiny)
    (found,) = workspace.keep_list.dictionaries
    assert list(found.forms) == [CAPTIONS, BARE]
