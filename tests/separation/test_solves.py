"""The joint solve by hand, and what a first solution moves most."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from compositions import random_increment

from multierase import Composer, Concept, EraseSettings, KeepList, erase
from multierase.increments.value import gram_factor
from multierase.prompts.kind import Kind
from multierase.separation import fitting
from multierase.separation.changes import Changes
from multierase.separation.dictionary import Dictionary
from multierase.separation.directions import gram
from multierase.separation.solves import JointSolve

WIDTH, KEEP, RIDGE = 12, 3.0, 0.03
THINGS = Kind(
    name="thing",
    about="things",
    sentences={"{a_subject} by {name}": "{a_subject}"},
    subjects=("desk", "cat"),
    beside=("church", "barn"),
)


def tokens(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)

    return torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)


def unit(listed: torch.Tensor) -> torch.Tensor:
    """Tokens with a mean variance of one."""
    return listed * (WIDTH / listed.square().sum()).sqrt()


def by_hand(
    own: list, kept: list, worst: torch.Tensor | None, deltas: list, heavy: float
) -> torch.Tensor:
    """``ΔW`` as one least-squares problem: targets beside rows, each by the root of its weight.

    The first concept has the weight ``heavy``.
    """
    rows = [unit(each) for each in own]
    rows[0] = heavy**0.5 * rows[0]
    targets = [each @ delta.T for each, delta in zip(rows, deltas, strict=True)]
    weights = [(each, KEEP * len(own) / len(kept)) for each in kept]
    weights += [(worst, KEEP * len(own) / 2)] if worst is not None else []
    zeros = [weight**0.5 * unit(each) for each, weight in weights]
    zeros.append(RIDGE**0.5 * torch.eye(WIDTH, dtype=torch.float64))
    left = torch.cat([*rows, *zeros])
    right = torch.cat([*targets, torch.zeros(len(left) - sum(map(len, rows)), deltas[0].shape[0])])

    return torch.linalg.lstsq(left, right.double()).solution.T


@pytest.mark.parametrize("heavy", [1.0, 2.5])
@pytest.mark.parametrize("named", [False, True])
def test_it_is_the_least_squares_solution(named, heavy):
    own, kept = [tokens(0, 3), tokens(1, 4)], [tokens(2, 30), tokens(3, 8)]
    worst = tokens(4, 2) if named else None
    deltas = [tokens(5, 7), tokens(6, 7)]
    expected = by_hand(own, kept, worst, deltas, heavy)

    solve = JointSolve(
        {str(place): each.T for place, each in enumerate(own)},
        [gram(each) for each in kept],
        keep_weight=KEEP,
        ridge=RIDGE,
    )
    solved = solve.transfers(
        worst=None if worst is None else gram(worst), weights={"0": heavy, "1": 1.0}
    )
    found = sum(solved[str(place)](delta.float()) for place, delta in enumerate(deltas))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factored", [(False, False), (True, True), (True, False)])
@torch.no_grad()
def test_what_a_set_moves_is_the_sum_over_its_layers(tiny, factored):
    active = {
        name: random_increment(tiny, name, "esd-x-strict", seed, factored=low_rank)
        for seed, (name, low_rank) in enumerate(zip(("dali", "monet"), factored, strict=True))
    }
    strengths = {"dali": 1.0, "monet": -0.5}
    changes = Changes(active, strengths, {"dali": {"tokens": lambda rows: 2 * rows}})

    expected = 0
    for parameter in tiny.readers:
        added = 2 * active["dali"].dense(parameter) - 0.5 * active["monet"].dense(parameter)
        expected = expected + added.double().T @ added.double()
    torch.testing.assert_close(changes.movement("tokens"), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_other_transfers_of_the_same_set_are_as_if_they_were_the_first(tiny):
    names = ("dali", "monet")
    active = {
        name: random_increment(tiny, name, "esd-x-strict", seed, factored=True)
        for seed, name in enumerate(names)
    }
    halved = {"dali": {"tokens": lambda rows: rows / 2}}
    changes = Changes(active, dict.fromkeys(names, 1.0), {})
    whole = changes.movement("tokens")
    found = changes.through(halved).movement("tokens")

    assert not torch.equal(found, whole)
    assert torch.equal(found, Changes(active, changes.strengths, halved).movement("tokens"))
    assert torch.equal(changes.through({}).movement("tokens"), whole)


@torch.no_grad()
def test_layers_that_share_a_factor_move_as_layers_that_do_not(tiny):
    increment = random_increment(tiny, "dali", "esd-x-strict", 0, factored=True)
    down = next(iter(increment.deltas.values())).down
    deltas = {name: type(delta)(delta.up, down) for name, delta in increment.deltas.items()}
    apart = {name: type(delta)(delta.up, down.clone()) for name, delta in deltas.items()}
    shared, single = (
        Changes({"dali": type(increment)(**vars(increment) | {"deltas": each})}, {"dali": 1.0}, {})
        for each in (deltas, apart)
    )
    torch.testing.assert_close(shared.movement("tokens"), single.movement("tokens"))


@torch.no_grad()
def test_what_moves_most_moves_less_for_being_named(tiny, monkeypatch):
    """The mean tokens of the dictionary's sentences, with and without the second solution."""
    increments = {
        name: random_increment(tiny, name, "esd-x-strict", seed, factored=True)
        for seed, name in enumerate(("dali", "monet"))
    }
    dictionary = Dictionary.of(tiny, THINGS, list(THINGS.sentences))
    keep = KeepList.of(tiny, [], increments).beside([dictionary])
    sentences = [each.prompt for listed in dictionary.sentences.values() for each in listed]
    encoded = [tiny.fresh_tokens([each])["tokens"].double() for each in sentences]
    means = torch.stack([each.mean(0) for each in encoded])

    def moved() -> torch.Tensor:
        composer = Composer(tiny, increments, solve="joint", keep=keep)
        pristine = {name: tiny.parameters()[name].clone() for name in tiny.readers}
        composer.erase("dali", "monet")
        total = 0
        for name, before in pristine.items():
            change = (tiny.parameters()[name] - before).double()
            total = total + (means @ change.T).square().sum(1)
        composer.restore_all()
        return total

    named = moved()
    monkeypatch.setattr(KeepList, "most_moved", lambda *_: None)
    before = moved()
    assert named.max() < 0.9 * before.max()
    assert named.topk(32).values.mean() < 0.9 * before.topk(32).values.mean()


@torch.no_grad()
def test_no_concept_is_given_up_for_the_others(tiny, monkeypatch):
    increments = {
        name: random_increment(tiny, name, "esd-x-strict", seed, factored=True)
        for seed, name in enumerate(("dali", "monet", "van gogh"))
    }
    # One that least squares give up: what is kept has most of its tokens in it.
    own = increments["monet"]
    kept = tiny.tokens(["a church", "a barn", "desk"], "tokens").T
    grams = {"tokens": gram_factor(kept.T)}
    increments["monet"] = dataclasses.replace(own, grams=grams)
    dictionary = Dictionary.of(tiny, THINGS, list(THINGS.sentences))
    keep = KeepList.of(tiny, [], increments).beside([dictionary])

    def deviations() -> list[float]:
        composer = Composer(tiny, increments, solve="joint", keep=keep)
        composer.erase(*increments)
        found = composer.deviations()
        composer.restore_all()
        return sorted(found.values())

    even = deviations()
    monkeypatch.setattr(fitting, "ROUNDS", 0)
    alike = deviations()
    assert even[-1] / sum(even) < 0.9 * alike[-1] / sum(alike)
    assert even[-1] < alike[-1]


# Sentences of a library that name two concepts.


def made(model, name, sentences=None):
    """Return an increment by UCE, with the base's own sentences of a concept or some of them."""
    concept = Concept(name).with_sentences(model.known_prompts)
    if sentences is not None:
        every = zip(concept.prompts, concept.contexts, strict=True)
        pairs = [pair for pair in every if sentences(pair[0])]
        concept = Concept(name, *map(tuple, zip(*pairs, strict=True)))

    return erase(model, concept, EraseSettings(known=False), method="uce")


def composed(model, increments, *erased):
    """Return the weights that erasing changes, in this library."""
    composer = Composer(model, increments, solve="joint")
    with composer.erasing(*erased):
        found = {name: model.parameters()[name].detach().clone() for name in model.readers}
    composer.close()
    return found


def same(some, others):
    return all(torch.equal(some[name], others[name]) for name in some)


def test_a_concept_that_stays_keeps_no_sentence_about_an_erased_one(emoji):
    noto, bathtub = made(emoji, "Noto"), made(emoji, "bathtub")
    assert any("Noto" in prompt for prompt in bathtub.provenance.prompts)

    without = made(emoji, "bathtub", lambda prompt: "Noto" not in prompt)
    found = composed(emoji, {"Noto": noto, "bathtub": bathtub}, "Noto")
    assert same(found, composed(emoji, {"Noto": noto, "bathtub": without}, "Noto"))
    assert not same(found, composed(emoji, {"Noto": noto}, "Noto"))


def test_of_two_that_are_erased_neither_says_what_becomes_of_the_other(emoji):
    noto, bathtub = made(emoji, "Noto"), made(emoji, "bathtub")
    apart = {
        "Noto": replaced_grams(noto, made(emoji, "Noto", lambda prompt: "bathtub" not in prompt)),
        "bathtub": replaced_grams(
            bathtub, made(emoji, "bathtub", lambda prompt: "Noto" not in prompt)
        ),
    }
    found = composed(emoji, {"Noto": noto, "bathtub": bathtub}, "Noto", "bathtub")
    assert same(found, composed(emoji, apart, "Noto", "bathtub"))


def test_a_concept_whose_sentences_all_name_another_keeps_them(emoji):
    noto = made(emoji, "Noto")
    of_noto = made(emoji, "bathtub", lambda prompt: "Noto" in prompt)
    renamed = dataclasses.replace(
        of_noto, provenance=dataclasses.replace(of_noto.provenance, prompts=(), contexts=())
    )
    found = composed(emoji, {"Noto": noto, "bathtub": of_noto}, "Noto")
    assert same(found, composed(emoji, {"Noto": noto, "bathtub": renamed}, "Noto"))


def test_a_set_that_was_imported_whole_is_no_other_of_itself(emoji):
    """Its sentences name what else it erases."""
    bathtub = made(emoji, "bathtub")
    both = dataclasses.replace(
        bathtub, history=({"step": "imported", "concepts": ["bathtub", "Noto"]},)
    )
    assert both.also == ("Noto",)
    assert same(
        composed(emoji, {"bathtub": both}, "bathtub"),
        composed(emoji, {"bathtub": bathtub}, "bathtub"),
    )


def replaced_grams(increment, other):
    """Return an increment with the Gram factors and sentences of another."""
    return dataclasses.replace(
        increment,
        grams=other.grams,
        provenance=dataclasses.replace(
            increment.provenance,
            prompts=other.provenance.prompts,
            contexts=other.provenance.contexts,
        ),
    )
