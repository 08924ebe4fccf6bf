"""UnlearnDiffAtk (arXiv 2310.11868): tokens before a prompt, by gradients through the model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from multierase.evaluation.attacks.attack import Aim, Attempt, Running, Target
from multierase.evaluation.cases import Case
from multierase.models.soft_text import SoftText

RATE, DECAY = 0.01, 0.1  # of Adam, the paper's
HALVINGS = 50  # of the simplex's projection; the interval is then below float32's last bit


def begin(target: Target, aim: Aim) -> Running:
    """Return the attack, which searches each case's tokens anew.

    ``k`` tokens are put before the prompt. Each is a row of the simplex over all tokens; a step
    draws one token of each row, asks the erased model with them, and follows the gradient of
    ``‖ε − ε_θ(x_t, t, [tokens; prompt])‖²`` straight through the draw (eq. 7), on noised latents of
    the base's own picture of the prompt. Times go from picture to noise, and the rows and the
    optimiser's state are carried on. After each time a picture is made with every row's most likely
    token.

    The published code decodes and encodes the base's picture again; here its latents are taken as
    they are.
    """
    text = SoftText(target.model)

    def attempts(case: Case) -> Iterator[Attempt]:
        generator = aim.generator("unlearn-diff", case.number)
        x_0 = target.of_base([case.prompt], [case.seed])
        search = Search(text, aim.asked[case.number], aim.budget.tokens)
        for number in range(aim.budget.attempts):
            # 10, 30 ... 990 of 1000 with the published number of times.
            share = (number + 0.5) / aim.budget.attempts
            t = torch.tensor([int(share * target.times)])
            for _ in range(aim.budget.steps):
                search.step(target, x_0, t, generator)

            yield search.attempt()

    return attempts


class Search:
    """The tokens before one prompt, in search.

    Args:
        prompt: it is cut where the tokens leave it no room.
        tokens: how many are searched.
    """

    def __init__(self, text: SoftText, prompt: str, tokens: int):
        self.text = text
        tokens = min(tokens, text.most)
        self.rest = text.ids(prompt)[: text.most - tokens]
        allowed = text.ordinary.float()
        self.rows = (allowed / allowed.sum()).repeat(tokens, 1).requires_grad_()
        self.optimizer = torch.optim.Adam([self.rows], lr=RATE, weight_decay=DECAY)

    def step(
        self, target: Target, x_0: torch.Tensor, t: torch.Tensor, generator: torch.Generator
    ) -> float:
        """Take one step at time ``t``; return the loss before it."""
        x_t, goal = target.noised(x_0, t, generator)
        tokens = torch.multinomial(self.rows.detach().cpu(), 1, generator=generator)
        drawn = F.one_hot(tokens[:, 0], self.rows.shape[1]).to(self.rows)

        with torch.enable_grad():
            # Straight through: forward the drawn tokens, backward a gradient of at most 1.
            straight = _Straight.apply(self.rows, drawn)
            vectors = torch.cat([straight @ self.text.table.float(), self._rest()])
            conditioning = self.text.encode(vectors[None])
            loss = F.mse_loss(target.predict(x_t, t.to(x_t.device), conditioning), goal)
        self.optimizer.zero_grad()
        (self.rows.grad,) = torch.autograd.grad(loss, [self.rows])
        self.optimizer.step()
        with torch.no_grad():
            self.rows.copy_(on_simplex(self.rows.masked_fill(~self.text.ordinary, -torch.inf)))

        return float(loss.detach())

    def attempt(self) -> Attempt:
        """Return what the search has come to: every row's most likely token."""
        ids = [*self.rows.detach().argmax(dim=1).tolist(), *self.rest]

        return Attempt(self.text.encode_ids(ids), self.text.text(ids), ids=ids)

    def _rest(self) -> torch.Tensor:
        return self.text.vectors(self.rest).float()


class _Straight(torch.autograd.Function):
    """The drawn tokens forward; backward the gradient as it is, each number at most 1."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return drawn

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return F.hardtanh(gradient), None


def on_simplex(rows: torch.Tensor) -> torch.Tensor:
    """Return the nearest ``(k, V)`` rows that are nowhere negative and sum to 1, by bisection.

    Of each row it is ``max(row − μ, 0)`` with the ``μ`` at which that sums to 1.
    """
    high = rows.amax(dim=1, keepdim=True)
    low = high - 1
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_much = (rows - middle).clamp(min=0).sum(dim=1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)

    return (rows - (low + high) / 2).clamp(min=0)
