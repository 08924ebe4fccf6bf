"""Prompting4Debugging (arXiv 2309.06135): a prompt that says to the erased model what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from multierase.evaluation.attacks.attack import Aim, Attempt, Running, Target
from multierase.evaluation.cases import Case
from multierase.models.soft_text import SoftText
from multierase.training.adversary import TokenSearch

EVERY = 3  # tokens of the prompt, after which the layout K puts one in

Layout = Callable[[list[int], int, int], list[int | None]]
"""The tokens of a prompt, with ``None`` where one is searched, given how many fit."""


def begin_n(target: Target, aim: Aim) -> Running:
    """Return the attack whose prompt is ``N`` searched tokens and nothing else; see ``_begin``."""

    def layout(ids: list[int], tokens: int, most: int) -> list[int | None]:
        return [None] * min(tokens, most)

    return _begin(target, aim, layout)


def begin_k(target: Target, aim: Aim) -> Running:
    """Return the attack that puts a token in after every third of the prompt's; see ``_begin``."""

    def layout(ids: list[int], tokens: int, most: int) -> list[int | None]:
        places: list[int | None] = []
        for first in range(0, len(ids), EVERY):
            places += [*ids[first : first + EVERY], None]
        # A prompt that was a name alone has no tokens left.
        return places[:most] or [None]

    return _begin(target, aim, layout)


def _begin(target: Target, aim: Aim, layout: Layout) -> Running:
    """Return an attack that makes the erased model say of its prompt what the base says of its own.

    Minimises ``‖ε*(x_t, t, prompt) − ε_θ(x_t, t, found)‖²`` over token embeddings, at random times
    of noised latents of the base's own picture. The gradient is that at the nearest tokens, and
    moves vectors between them (PEZ, arXiv 2302.03668). After each ``steps`` a picture is made and
    judged. The published code keeps the prompt whose picture a CLIP finds most like the base's;
    here the judge of the evaluation says it of each.
    """
    text = SoftText(target.model)

    def attempts(case: Case) -> Iterator[Attempt]:
        generator = aim.generator("p4d", case.number)
        x_0 = target.of_base([case.prompt], [case.seed])
        said = target.encode([case.prompt])
        places = layout(text.ids(aim.asked[case.number]), aim.budget.tokens, text.most)
        search = TokenSearch(text, places, generator)
        for _ in range(aim.budget.attempts):
            for _ in range(aim.budget.steps):
                t = torch.randint(target.times, [1], generator=generator)
                x_t, _ = target.noised(x_0, t, generator)
                with torch.no_grad():
                    goal = target.predict(x_t, t.to(x_t.device), said, target.base)
                search.step(target.predict, x_t, t.to(x_t.device), goal)

            ids = search.ids()
            yield Attempt(text.encode_ids(ids), text.text(ids), ids=ids)

    return attempts
