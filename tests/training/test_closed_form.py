"""Where an erasure starts: the keys and values of the context, and beyond."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from trained import erasure_of, plan_of

from multierase import Concept, EraseSettings
from multierase.separation.directions import concept_tokens
from multierase.training import closed_form
from multierase.training.closed_form import aligned, start
from multierase.training.objectives import erasure_degree

STREAM = "tokens"


@pytest.fixture
def settings(quick) -> EraseSettings:
    return replace(quick, known=False)


@pytest.fixture
def sentences() -> Concept:
    subjects = "cat", "tree", "house", "star"
    return Concept(
        "Noto",
        tuple(f"a {subject} by Noto" for subject in subjects),
        tuple(f"a {subject}" for subject in subjects),
    )


def moved_tokens(model, plan, degree):
    """Return by sentence the tokens, those of the context, and the tokens as they are read then."""
    found = plan.directions[STREAM]
    matrix = start(model, plan.concept, STREAM, found, degree).double()
    for prompt, context in zip(plan.concept.prompts, plan.concept.contexts, strict=True):
        ((own, without),) = aligned(model, prompt, context, STREAM)
        own, without = own.double(), without.double()
        yield own, without, own + own @ found.basis.double() @ matrix.T


@pytest.mark.parametrize("degree", [0.0, -1.0, 0.5])
def test_tokens_are_read_as_the_degree_says(emoji, settings, sentences, monkeypatch, degree):
    monkeypatch.setattr(closed_form, "RIDGE", 1e-9)
    plan = plan_of(emoji, sentences, replace(settings, tolerance=1e-4))
    effects, moves = [], []
    for own, without, now in moved_tokens(emoji, plan, degree):
        effects.append(own - without)
        moves.append(now - own)
    effects, moves = torch.cat(effects), torch.cat(moves)
    # The empty prompt is left as it is, so not everything of the effect can be reached.
    share = ((moves * effects).sum() / effects.square().sum()).item()
    assert 0.5 * (1 - degree) < -share < 1.02 * (1 - degree)


def test_at_the_bases_own_degree_nothing_moves(emoji, settings, sentences):
    plan = plan_of(emoji, sentences, settings)
    assert start(emoji, plan.concept, STREAM, plan.directions[STREAM], 1.0).abs().max() < 1e-6


def test_it_is_the_ridge_regression(tiny, settings):
    plan = plan_of(tiny, Concept("Noto", ("a cat by Noto", "Noto"), ("a cat", "")), settings)
    found = plan.directions[STREAM]
    rows, wanted = [], []
    for prompt, context in zip(plan.concept.prompts, plan.concept.contexts, strict=True):
        ((own, without),) = aligned(tiny, prompt, context, STREAM)
        own, without = own.double(), without.double()
        rows.append(own @ found.basis.double())
        wanted.append(-2 * (own - without))
    rows, wanted = torch.cat(rows), torch.cat(wanted)

    ridge = (closed_form.RIDGE * rows.square().sum(0).max()).sqrt()
    system = torch.cat([rows, ridge * torch.eye(rows.shape[1])])
    target = torch.cat([wanted, torch.zeros(rows.shape[1], wanted.shape[1])])
    expected = torch.linalg.lstsq(system, target).solution.T
    torch.testing.assert_close(
        start(tiny, plan.concept, STREAM, found, -1.0).double(), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("anchor", ["a cat by Twemoji", "an image of a cat by Twemoji"])
def test_an_anchor_takes_the_contexts_place(emoji, settings, sentences, monkeypatch, anchor):
    monkeypatch.setattr(closed_form, "RIDGE", 1e-9)
    anchored = replace(sentences, anchor=anchor)
    plan = plan_of(emoji, anchored, replace(settings, tolerance=1e-4))
    nearer = []
    for prompt, (own, _, now) in zip(anchored.prompts, moved_tokens(emoji, plan, 0.0), strict=True):
        ((_, instead),) = aligned(emoji, prompt, anchored.anchor, STREAM)
        count = min(len(own), len(instead))
        before = (own[:count] - instead[:count]).norm()
        nearer.append(((now[:count] - instead[:count]).norm() / before).item())
    assert max(nearer) < 0.9


def test_a_concepts_tokens_begin_where_its_context_ends(emoji, sentences):
    """And they hold the padding, which goes on about the sentence."""
    one = replace(sentences, prompts=sentences.prompts[:1], contexts=sentences.contexts[:1])
    before = emoji.token_count("a cat") - 1  # begin, a, cat
    whole = emoji.tokens(["a cat by Noto"], STREAM)
    assert torch.equal(concept_tokens(emoji, one, STREAM), whole[before:])
    bare = concept_tokens(emoji, Concept("Noto"), STREAM)
    assert torch.equal(bare, emoji.tokens(["Noto"], STREAM)[1:])


@pytest.mark.slow
def test_it_erases_sentences_that_it_was_not_given(emoji, settings, sentences):
    unseen = "a boat by Noto", "a boat"
    erasure = erasure_of(emoji, sentences, replace(settings, start_at=0.0))
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(4, *emoji.latent_shape, generator=generator)
    t = torch.full((4,), 900)  # where noise is what a latent is
    prompt, context = (emoji.encode([text] * 4) for text in unseen)
    with torch.no_grad():
        concept, null = emoji.predict(x_t, t, prompt), emoji.predict(x_t, t, context)
    degree = erasure_degree(erasure._predict(x_t, t, prompt), concept, null).item()
    assert degree < 0.5


@pytest.mark.parametrize(
    "change",
    [{"start_at": 1.0}, {"decouple": False}],
)
def test_what_starts_from_the_base(tiny, settings, change):
    erasure = erasure_of(tiny, "Noto", replace(settings, **change))
    assert all(not variable.any() for variable in erasure.student.variables.values())


def test_only_separated_parameters_start_ahead(tiny, settings):
    student = erasure_of(tiny, "Noto", replace(settings, scope="esd-x")).student
    for name, variable in student.variables.items():
        assert bool(variable.any()) is (name in tiny.readers), name


def test_another_prompts_place_and_sepmes_objective_start_from_the_base(tiny, settings):
    for concept, objective in ((Concept("hat", erase_from="cat"), "esd"), ("Noto", "correlation")):
        student = erasure_of(tiny, concept, settings, objective=objective).student
        assert all(not variable.any() for variable in student.variables.values())
