"""Attacks on erasures: who asks otherwise than in sentences, and what the model then draws.

Names and descriptions need no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, get_args

from multierase.errors import UsageError, suggest

BudgetName = Literal["quick", "paper"]
BUDGETS: tuple[str, ...] = get_args(BudgetName)


@dataclass(frozen=True)
class Budget:
    """What an attack may spend.

    Args:
        attempts: pictures that are made and judged for a case, at most; the first success ends it.
        steps: of the optimisation, before each attempt.
        batch: examples of a step.
        tokens: that it may choose.
        pictures: of the concept that the attacker has.
        candidates: prompts of a generation.

    Raises:
        UsageError: for less than 1 of anything.
    """

    attempts: int = 1
    steps: int = 1
    batch: int = 1
    tokens: int = 3
    pictures: int = 1
    candidates: int = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UsageError(f"an attack's budget with {value} {name} is none: give 1 or more")


@dataclass(frozen=True)
class Attack:
    """A published attack, or a probe.

    Args:
        about: one line for the help.
        paper: its address; empty for a probe of our own.
        module: where its function is.
        quick: a budget of minutes on two cores on the embedded base.
        paper_budget: the published one.
        function: the name of its function, see ``Begin``.
        by_tokens: whether it asks with tokens of its own, which fits models of one text tower.
    """

    about: str
    paper: str
    module: str
    quick: Budget
    paper_budget: Budget
    function: str = "begin"
    by_tokens: bool = True

    @property
    def begin(self) -> Callable[..., Any]:
        """The attack's function, a ``Begin``; it is imported when it is first needed."""
        return getattr(import_module(self.module), self.function)

    def budget(self, name: str, **changed: int | None) -> Budget:
        """Return a budget by its name, with some of its numbers changed.

        Raises:
            UsageError: for an unknown name, or less than 1 of anything.
        """
        if name not in BUDGETS:
            raise UsageError(
                f"unknown budget {name!r}{suggest(name, BUDGETS)}; give one of {sorted(BUDGETS)}"
            )
        found = self.quick if name == "quick" else self.paper_budget

        return replace(found, **{key: value for key, value in changed.items() if value is not None})


_MODULES = "multierase.evaluation.attacks"
ATTACKS: Mapping[str, Attack] = {
    "unlearn-diff": Attack(
        "tokens before the prompt, by gradients through the erased model (UnlearnDiffAtk)",
        "https://arxiv.org/abs/2310.11868",
        f"{_MODULES}.unlearn_diff",
        Budget(attempts=10, steps=10),
        Budget(attempts=50, steps=40),
    ),
    "p4d-n": Attack(
        "a prompt of its own that says to the erased model what the prompt said to the base",
        "https://arxiv.org/abs/2309.06135",
        f"{_MODULES}.p4d",
        Budget(attempts=6, steps=20, tokens=16),
        Budget(attempts=60, steps=50, tokens=16),
        "begin_n",
    ),
    "p4d-k": Attack(
        "the same with tokens put in after every third of the prompt",
        "https://arxiv.org/abs/2309.06135",
        f"{_MODULES}.p4d",
        Budget(attempts=6, steps=20),
        Budget(attempts=60, steps=50),
        "begin_k",
    ),
    "ring-a-bell": Attack(
        "a prompt that the text tower takes for the concept; the denoiser is not asked",
        "https://arxiv.org/abs/2310.10012",
        f"{_MODULES}.ring_a_bell",
        Budget(steps=100, tokens=16, candidates=50),
        Budget(steps=3000, tokens=16, candidates=200),
    ),
    "inversion": Attack(
        "one new token for the concept, learnt from pictures (textual inversion)",
        "https://arxiv.org/abs/2308.01508",
        f"{_MODULES}.inversion",
        Budget(steps=200, batch=4, pictures=8),
        Budget(steps=5000, batch=16, pictures=25),
    ),
    "relearning": Attack(
        "the erased model fine-tuned on few pictures of the concept",
        "https://arxiv.org/abs/2505.16174",
        f"{_MODULES}.relearning",
        Budget(steps=20, batch=4, pictures=8),
        Budget(steps=200, batch=4, pictures=25),
        by_tokens=False,
    ),
    "noised": Attack(
        "a picture of the concept, noised, from where the erased model goes on",
        "https://arxiv.org/abs/2505.17013",
        f"{_MODULES}.noised",
        Budget(attempts=4),
        Budget(attempts=10),
        by_tokens=False,
    ),
    "random": Attack(
        "the control: as many pictures as unlearn-diff, with tokens that are drawn, not searched",
        "",
        f"{_MODULES}.random_tokens",
        Budget(attempts=10),
        Budget(attempts=50),
    ),
}


def attack_named(name: str) -> Attack:
    """Return the attack of this name. Raises ``UsageError`` for an unknown one."""
    if name not in ATTACKS:
        raise UsageError(
            f"unknown attack {name!r}{suggest(name, ATTACKS)}; attacks: {sorted(ATTACKS)}"
        )

    return ATTACKS[name]
