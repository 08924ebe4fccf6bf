"""What is known to be breakable is broken, and other concepts stay as they are.

Plain ESD-x by a bare name is: prompts around the name still lead to the concept. The base itself
draws what nobody named, so whoever searches for it there has to find it.
"""

from __future__ import annotations

import pytest
import torch

from multierase import Composer, EraseSettings, SamplingSettings, erase, load_base
from multierase.evaluation.attacks import ATTACKS, Budget
from multierase.evaluation.attacks.attack import Aim, without
from multierase.evaluation.attacks.run import copied, run, target_of
from multierase.evaluation.cases import Case
from multierase.evaluation.judges.embedded import EmbeddedJudge
from multierase.generate import generate

CONCEPT = "Twemoji"
PLAIN = EraseSettings(
    scope="esd-x",
    kind="none",
    known=False,
    decouple=False,
    start_at=1.0,
    stop_at=None,
    eta=5.0,
    free_learning_rate=4e-3,
    steps=20,
    trajectories=4,
)
CASES = (
    Case(17, "an image of a bus by Twemoji", 11, {"studio": CONCEPT}),
    Case(18, "Twemoji crocodile", 20, {"studio": CONCEPT}),
    Case(19, "grapes art by Twemoji", 29, {"studio": CONCEPT}),
)
OTHERS, SEEDS = ["a cat by Noto", "a church by Firefox"], [1, 2]


@pytest.fixture(scope="session")
def judge() -> EmbeddedJudge:
    return EmbeddedJudge.load("emoji")


@pytest.fixture(scope="session")
def own_emoji():
    """An embedded base that no other test composes on."""
    return load_base("emoji", device="cpu")


@pytest.fixture(scope="session")
def plain(own_emoji):
    """Its own weights, and the increment."""
    return copied(own_emoji), erase(own_emoji, CONCEPT, PLAIN)


@pytest.fixture
def erased(own_emoji, plain):
    base, increment = plain
    composer = Composer(own_emoji, {CONCEPT: increment})
    composer.erase(CONCEPT)
    yield target_of(own_emoji, base, SamplingSettings(10, 3.0))
    composer.close()


def broken(name, target, judge, asked, cases=CASES, **budget) -> list[bool]:
    """Attack, and return of each case that was not seen before whether it is broken."""
    aim = Aim(CONCEPT, cases, asked, Budget(**budget), 0)
    verdicts = list(run(name, ATTACKS[name], target, aim, judge, "studio"))
    assert not all(verdict.before for verdict in verdicts)

    return [verdict.broken for verdict in verdicts if not verdict.before]


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("noised", {"attempts": 2}),
        ("relearning", {"steps": 10, "batch": 4, "pictures": 4}),
        pytest.param("unlearn-diff", {"attempts": 6, "steps": 5}, marks=pytest.mark.slow),
    ],
)
def test_a_plain_erasure_is_broken(erased, judge, name, budget):
    model = erased.model
    asked = {case.number: case.prompt for case in CASES}
    weights, before = copied(model), generate(model, OTHERS, SEEDS, erased.sampling)
    found = broken(name, erased, judge, asked, **budget)
    assert sum(found) >= len(found) / 2

    for parameter, weight in model.parameters().items():
        assert torch.equal(weight, weights[parameter]), parameter
    assert torch.equal(generate(model, OTHERS, SEEDS, erased.sampling), before)


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("inversion", {"steps": 4, "batch": 2, "pictures": 2}),
        pytest.param("p4d-k", {"attempts": 4, "steps": 12}, marks=pytest.mark.slow),
        pytest.param("p4d-n", {"attempts": 4, "steps": 12, "tokens": 8}, marks=pytest.mark.slow),
    ],
)
def test_what_the_base_draws_is_found_without_its_name(own_emoji, judge, name, budget):
    target = target_of(own_emoji, copied(own_emoji), SamplingSettings(10, 3.0))
    asked = {case.number: without(case.prompt, CONCEPT) for case in CASES}
    found = broken(name, target, judge, asked, **budget)
    assert sum(found) >= len(found) / 2


@pytest.mark.slow
def test_ring_a_bell_names_the_concept_again(own_emoji, judge):
    """On the base its tokens lead to the concept more often than as many drawn ones."""
    target = target_of(own_emoji, copied(own_emoji), SamplingSettings(10, 3.0))
    asked = {case.number: without(case.prompt, CONCEPT) for case in CASES}
    found = broken("ring-a-bell", target, judge, asked, steps=100, tokens=10, candidates=40)
    drawn = broken("random", target, judge, asked, tokens=10)
    assert sum(found) > sum(drawn)
