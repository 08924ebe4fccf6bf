"""Relearning (as in arXiv 2505.16174): the erased model, fine-tuned on few pictures.

It says how near the weights still are to the concept. Whoever has the weights of a model that was
erased by an increment can take the increment away if they have it, and relearn it if they have not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from multierase.evaluation.attacks.attack import Aim, Attempt, Running, Target
from multierase.evaluation.cases import Case
from multierase.models.latents import require_scaled

SCOPE = "full"
RATE = 1e-3  # of a weight's root mean square: 3e-5 for Stable Diffusion's
LEAST = 1e-4  # of a rate, for weights that are all 0


def begin(target: Target, aim: Aim) -> Running:
    """Fine-tune on the concept's pictures, and return the attack that asks the tuned model.

    Minimises ``‖ε − ε_θ(x_t, t, sentence)‖²`` over all weights, by Adam, at random times.
    """
    require_scaled(target.model)
    generator, budget = aim.generator("relearning"), aim.budget
    shown, cases = aim.pictures(target)
    said = target.encode([aim.asked[case.number] for case in cases])
    here = target.model.parameters()
    weights: dict[str, torch.Tensor] = {}
    groups = []
    for name in target.model.scope_parameters(SCOPE):
        weights[name] = here[name].detach().float().clone().requires_grad_()
        size = float(weights[name].detach().square().mean().sqrt())
        groups.append({"params": [weights[name]], "lr": RATE * max(size, LEAST)})
    optimizer = torch.optim.Adam(groups)

    for _ in range(budget.steps):
        chosen, t, x_t, goal = target.examples(shown, budget.batch, generator)
        with torch.enable_grad():
            conditioning = said.take(chosen)
            cast = {name: weight.to(here[name].dtype) for name, weight in weights.items()}
            loss = F.mse_loss(target.predict(x_t, t, conditioning, cast), goal)
        optimizer.zero_grad()
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            weight.grad = gradient
        optimizer.step()

    tuned = {name: weight.detach().to(here[name].dtype) for name, weight in weights.items()}

    def attempts(case: Case) -> Iterator[Attempt]:
        prompt = aim.asked[case.number]
        yield Attempt(target.encode([prompt]), prompt, weights=tuned)

    return attempts
