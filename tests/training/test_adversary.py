"""Sentences that still call up an erased concept are found, and trained with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from multierase import Concept, EraseSettings, erase, erase_several
from multierase.errors import UsageError
from multierase.models.soft_text import SoftText
from multierase.training import adversary
from multierase.training.adversary import TOKENS, adversarial, with_found
from multierase.training.plan import Planner

FEW = {"SENTENCES": 3, "STEPS": 8}
SETTINGS = EraseSettings(steps=3, trajectories=2, sampler_steps=4, batch_size=2, stop_at=None)


@pytest.fixture(scope="module", autouse=True)
def few():
    """Search few sentences in few steps."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FEW.items():
            patch.setattr(adversary, name, value)
        yield


@pytest.fixture(scope="module")
def plan(emoji):
    return Planner(emoji, SETTINGS).plan(Concept("Noto"))


@pytest.fixture(scope="module")
def noto(emoji):
    return erase(emoji, "Noto", SETTINGS)


@pytest.fixture(scope="module")
def found(emoji, plan, noto):
    before = {name: weight.clone() for name, weight in emoji.parameters().items()}
    found = adversarial(emoji, plan, noto, 0)
    after = emoji.parameters()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    return found


def test_found_sentences_are_read_as_they_were_found(emoji, plan, found):
    text, (name,) = SoftText(emoji), SoftText(emoji).ids("Noto")
    assert 0 < len(found.prompts) <= FEW["SENTENCES"]
    for prompt, context in zip(found.prompts, found.contexts, strict=True):
        assert text.text(text.ids(prompt)) == prompt
        assert prompt not in plan.concept.prompts
        assert name not in text.ids(context)


def test_a_search_is_its_seeds(emoji, plan, noto, found):
    assert adversarial(emoji, plan, noto, 0) == found
    assert adversarial(emoji, plan, noto, 1) != found


def test_what_a_search_finds_says_more_than_where_it_began(emoji, plan, noto, monkeypatch):
    text, weights = SoftText(emoji), adversary._changed(emoji, noto)
    monkeypatch.setattr(adversary, "STEPS", 20)

    def losses(prompts, sentences):
        total = 0.0
        for prompt, sentence in zip(prompts, sentences, strict=True):
            points = plan.points
            count = len(points.t)
            with torch.no_grad():
                goal = emoji.predict(points.x_t, points.t, emoji.encode([sentence] * count))
                said = emoji.predict(points.x_t, points.t, emoji.encode([prompt] * count), weights)
            total += float(F.mse_loss(said, goal))
        return total

    found = adversarial(emoji, plan, noto, 0).prompts
    monkeypatch.setattr(adversary, "STEPS", 0)
    begun = adversarial(emoji, plan, noto, 0).prompts
    sentences = [text.text(text.ids(prompt)[TOKENS:]) for prompt in found]
    assert len(found) == len(begun)
    assert losses(found, sentences) < losses(begun, sentences)


def test_with_found_keeps_what_was_there():
    found = adversary.Found(("x noto", "b"), ("x", ""), 7)
    concept = with_found(Concept("Noto", ("a", "b"), ("c", "d")), found)
    assert concept.prompts == ("a", "b", "x noto")
    assert concept.contexts == ("c", "", "x")


def test_a_robust_erasure_has_the_sentences_and_their_cost(emoji, noto, found):
    robust = erase(emoji, "Noto", replace(SETTINGS, robust=1))
    assert {*found.prompts} <= {*robust.provenance.prompts}
    assert {*noto.provenance.prompts} <= {*robust.provenance.prompts}
    assert robust.provenance.settings["robust"] == 1
    once = noto.provenance.cost.evaluations
    assert robust.provenance.cost.evaluations > once + found.evaluations
    assert robust != noto


def test_what_shares_a_run_is_searched_alone(emoji, found):
    first, second = erase_several(emoji, ["Noto", "Twemoji"], replace(SETTINGS, robust=1))
    assert {*found.prompts} <= {*first.provenance.prompts}
    assert not {*found.prompts} & {*second.provenance.prompts}


def test_what_cannot_be_searched_is_said_first(emoji):
    with pytest.raises(UsageError, match="give a --kind other than none"):
        erase(emoji, "Noto", replace(SETTINGS, kind="none", robust=1))
    with pytest.raises(ValueError, match="robust is -1"):
        EraseSettings(robust=-1)
