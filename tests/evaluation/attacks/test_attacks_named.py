"""Attacks and budgets by their names."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from multierase.errors import UsageError
from multierase.evaluation.attacks import ATTACKS, BUDGETS, Budget, attack_named


@pytest.mark.parametrize("part", [field.name for field in dataclasses.fields(Budget)])
@pytest.mark.parametrize("count", [0, -1])
def test_a_budget_of_nothing(part, count):
    with pytest.raises(UsageError, match=f"with {count} {part} is none: give 1 or more"):
        Budget(**{part: count})
    with pytest.raises(UsageError, match=f"with {count} {part} is none"):
        ATTACKS["noised"].budget("quick", **{part: count})


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UsageError, match="unknown attack 'unlearn-dif'; did you mean 'unlearn-d"):
        attack_named("unlearn-dif")
    with pytest.raises(UsageError, match="unknown budget 'papper'; did you mean 'paper'") as error:
        ATTACKS["noised"].budget("papper")
    assert "give one of ['paper', 'quick']" in str(error.value)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_is_found_and_has_its_budgets(name):
    attack = attack_named(name)
    assert callable(attack.begin)
    assert attack.paper.startswith("https://arxiv.org/abs/") or name == "random"
    quick, paper = (attack.budget(budget) for budget in BUDGETS)
    for part in dataclasses.asdict(quick):
        assert getattr(quick, part) <= getattr(paper, part)
    assert attack.budget("quick", steps=7, tokens=None) == dataclasses.replace(quick, steps=7)


def test_published_budgets():
    """As the papers’ code has them."""
    paper = {name: attack.budget("paper") for name, attack in ATTACKS.items()}
    assert paper["unlearn-diff"].attempts * paper["unlearn-diff"].steps == 2000
    for name in ("p4d-n", "p4d-k"):
        assert (paper[name].attempts * paper[name].steps, paper[name].steps) == (3000, 50)
    assert paper["p4d-n"].tokens == paper["ring-a-bell"].tokens == 16
    assert (paper["ring-a-bell"].steps, paper["ring-a-bell"].candidates) == (3000, 200)
    assert (paper["inversion"].steps, paper["inversion"].batch) == (5000, 16)
    assert paper["inversion"].pictures == 25


def test_names_and_descriptions_need_no_torch():
    code = (
        "import sys, multierase.evaluation.attacks as a; a.attack_named('noised').budget('quick')"
    )
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
