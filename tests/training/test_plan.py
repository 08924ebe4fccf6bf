"""What is said to be kept exactly is kept exactly, and nothing else is said."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trained import inputs_for, plan_of

from multierase import Composer, Concept, erase
from multierase.errors import ConceptRefused
from multierase.models.scopes import STABLE_DIFFUSION

SCOPES = sorted(STABLE_DIFFUSION.scopes)
KEPT = "a cat"
SENTENCE = Concept("Noto", ("a church by Noto",), ("a church",))


def moves(model, increment, prompt: str) -> float:
    """How far an increment moves the prediction for a prompt, in units of the prediction."""
    inputs = inputs_for(model, prompt)
    composer = Composer(model, {"it": increment})
    with torch.no_grad():
        before = model.predict(*inputs)
        with composer.erasing("it", strength=30.0):
            after = model.predict(*inputs)

    return ((after - before).norm() / before.norm()).item()


@pytest.mark.parametrize("decouple", [True, False])
@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_said_to_be_kept_exactly_is(tiny, quick, scope, decouple):
    settings = dataclasses.replace(quick, scope=scope, decouple=decouple, learning_rate=3e-2)
    require_true_separation(tiny, settings, [""])


@pytest.mark.parametrize("scope", ["esd-x-strict", "esd-x", "esd-u"])
def test_what_is_said_to_be_kept_exactly_is_of_more_prompts(emoji, quick, scope):
    settings = dataclasses.replace(quick, scope=scope, keep=(KEPT,), known=False)
    require_true_separation(emoji, settings, ["", KEPT])


def require_true_separation(model, settings, asked):
    increment = erase(model, "Noto", settings)
    kept = increment.provenance.separation.kept_exactly
    exact = settings.scope == "esd-x-strict" and settings.decouple
    assert kept == (tuple(asked) if exact else ())

    own = moves(model, increment, "Noto")
    assert own > 1e-3
    for prompt in asked:
        moved = moves(model, increment, prompt)
        if prompt in kept:
            assert moved < 1e-3 * own
        else:
            assert moved > 1e-2 * own  # it is not claimed, and it would not be true


@pytest.mark.parametrize("scope", SCOPES)
def test_directions_are_told_of_the_streams_whose_readers_have_some(tiny, quick, scope):
    settings = dataclasses.replace(quick, scope=scope)
    increment = erase(tiny, "Noto", settings)
    told = increment.provenance.separation.directions
    assert (told != {}) == bool(increment.readers)
    for name, stream in increment.readers.items():
        assert told[stream]["rank"] == increment.deltas[name].down.shape[0]


def test_prompts_kept_exactly_are_listed_and_kept(emoji, quick):
    settings = dataclasses.replace(quick, keep=("a church by Twemoji",), known=False)
    increment = erase(emoji, "Noto", settings)
    kept = emoji.tokens(["a church by Twemoji", ""]).T
    own = emoji.tokens(["Noto"]).T
    for name in increment.deltas:
        delta = increment.dense(name)
        assert (delta @ kept).norm() < 1e-4 * (delta @ own).norm()
    assert increment.provenance.separation.kept_exactly == ("", "a church by Twemoji")
    assert increment.provenance.separation.kept_in_mean is None


def test_what_is_kept_in_the_mean_is_counted(emoji, quick):
    plan = plan_of(emoji, "Noto", quick)
    others = [p for p in emoji.known_prompts if "noto" not in p.concepts]
    assert plan.separation.kept_in_mean["prompts"] == len(others)
    assert len(plan.listed) == len(others)
    assert plan.exact == ("",)


def test_scopes_that_read_no_text_need_no_directions(tiny, quick):
    """The kept prompts say all that the concept does: ``esd-u`` never uses its tokens."""
    overlap = dataclasses.replace(quick, keep=("Noto",), known=False)
    with pytest.raises(ConceptRefused, match="nothing is left to erase it by") as refused:
        plan_of(tiny, "Noto", overlap)
    assert refused.value.concept == "Noto"
    for scope in ("esd-u", "selfattn"):
        assert erase(tiny, "Noto", dataclasses.replace(overlap, scope=scope)).norm() > 0


def test_more_prompts_than_there_are_dimensions_cannot_be_kept_exactly(tiny, quick):
    keep = ("a church by Twemoji", "a cat", "Firefox art")
    with pytest.raises(ConceptRefused, match="keep fewer prompts"):
        plan_of(tiny, "Noto", dataclasses.replace(quick, keep=keep))


@pytest.mark.parametrize("decouple", [True, False])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("concept", "keep", "exact"),
    [
        (Concept("Noto"), (), True),  # the empty prompt is always among the kept
        (SENTENCE, (), False),
        (SENTENCE, ("a church",), True),
        (Concept("Noto", ("Noto", "a church by Noto"), ("", "a church")), (), False),
    ],
)
def test_sepmes_shortcut_is_taken_only_where_the_context_is_kept_exactly(
    emoji, quick, concept, keep, exact, scope, decouple
):
    settings = dataclasses.replace(quick, scope=scope, decouple=decouple, keep=keep, known=False)
    shortcut = exact and decouple and scope == "esd-x-strict"
    assert plan_of(emoji, concept, settings, "correlation").asks_null is not shortcut
    assert plan_of(emoji, concept, settings, "esd").asks_null is False


def test_known_sentences_join_a_bare_name_only(emoji, quick):
    bare = plan_of(emoji, "Twemoji", quick).concept
    assert bare.prompts[0] == "Twemoji"
    pairs = dict(zip(bare.prompts, bare.contexts, strict=True))
    assert pairs["an airplane by Twemoji"] == "an airplane"
    assert not any("Fluent" in prompt for prompt in bare.prompts)

    unknown = dataclasses.replace(quick, known=False)
    assert plan_of(emoji, "Twemoji", unknown).concept.prompts == ("Twemoji",)
    own = Concept("x", ("Twemoji art",))
    assert plan_of(emoji, own, quick).concept.prompts == ("Twemoji art",)


@pytest.mark.parametrize("concept", ["ピカチュウ", "a ☃", Concept("Noto", anchor="☃")])
def test_a_concept_that_the_tokenizer_cannot_represent(tiny, quick, concept):
    with pytest.raises(ValueError, match="tokenizer cannot represent"):
        plan_of(tiny, concept, quick)
