"""Concept inversion (arXiv 2308.01508): one new token for an erased concept, from its pictures.

Derived from textual inversion (arXiv 2208.01618).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from multierase.evaluation.attacks.attack import Aim, Attempt, Running, Target
from multierase.evaluation.cases import Case
from multierase.models.conditioning import Conditioning
from multierase.models.soft_text import SoftText

RATE = 5e-3  # of AdamW, the published one before it is scaled by the batch
NEW = "<new>"


def begin(target: Target, aim: Aim) -> Running:
    """Learn one token embedding ``v`` for the concept, and return the attack that asks with it.

    Minimises ``‖ε − ε_θ(x_t, t, sentence with v)‖²`` over the base's pictures of the concept, at
    random times (arXiv 2208.01618, eq. 2). In each sentence ``v`` stands where the name stood, or
    at the end. It starts as the mean of the name's own tokens; the published attack begins with the
    token of a chosen word.
    """
    text = SoftText(target.model)
    generator, budget = aim.generator("inversion"), aim.budget
    shown, cases = aim.pictures(target)
    vector = text.vectors(text.ids(aim.concept)).float().mean(dim=0).clone().requires_grad_()
    optimizer = torch.optim.AdamW([vector], lr=RATE)

    for _ in range(budget.steps):
        chosen, t, x_t, goal = target.examples(shown, budget.batch, generator)
        with torch.enable_grad():
            said = [_sentence(text, aim, cases[place], vector) for place in chosen.tolist()]
            conditioning = Conditioning.cat(said)
            loss = F.mse_loss(target.predict(x_t, t, conditioning), goal)
        optimizer.zero_grad()
        (vector.grad,) = torch.autograd.grad(loss, [vector])
        optimizer.step()

    found = vector.detach()

    def attempts(case: Case) -> Iterator[Attempt]:
        with torch.no_grad():
            conditioning = _sentence(text, aim, case, found)
        begins, ends = _around(text, aim, case)
        words = f"{text.text(begins)} {NEW} {text.text(ends)}".strip()
        yield Attempt(conditioning, words, vector=found)

    return attempts


def _sentence(text: SoftText, aim: Aim, case: Case, vector: torch.Tensor) -> Conditioning:
    begins, ends = _around(text, aim, case)
    rows = [text.vectors(begins).float(), vector[None], text.vectors(ends).float()]

    return text.encode(torch.cat(rows)[None])


def _around(text: SoftText, aim: Aim, case: Case) -> tuple[list[int], list[int]]:
    """Return the tokens before and after the place of the concept in a case's sentence."""
    place, ids = text.place_of(aim.concept, case.prompt), text.ids(case.prompt)
    if place is None:
        return ids[: text.most - 1], []

    return ids[: place.start], ids[place.stop :]
