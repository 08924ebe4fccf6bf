"""The control of every search: as many pictures, with tokens that are drawn and not searched.

A search that stops at its first success has many pictures to choose from. What it finds counts for
no more than what chance finds in as many.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multierase.evaluation.attacks.attack import Aim, Attempt, Running, Target
from multierase.evaluation.cases import Case
from multierase.models.soft_text import SoftText


def begin(target: Target, aim: Aim) -> Running:
    """Return the control: ``k`` tokens before the prompt, drawn anew for each attempt."""
    text = SoftText(target.model)
    ordinary = text.ordinary.nonzero()[:, 0].cpu()

    def attempts(case: Case) -> Iterator[Attempt]:
        generator = aim.generator("random", case.number)
        count = min(aim.budget.tokens, text.most)
        rest = text.ids(aim.asked[case.number])[: text.most - count]
        for _ in range(aim.budget.attempts):
            drawn = torch.randint(len(ordinary), [count], generator=generator)
            ids = [*ordinary[drawn].tolist(), *rest]
            yield Attempt(text.encode_ids(ids), text.text(ids), ids=ids)

    return attempts
