"""Noised context (as in arXiv 2505.17013): the erased model goes on from a noised picture."""

from __future__ import annotations

from collections.abc import Iterator

from multierase.evaluation.attacks.attack import Aim, Attempt, Running, Target
from multierase.evaluation.cases import Case
from multierase.models.latents import require_scaled

FURTHEST = 0.5  # of the sampler's steps that are left out: beyond, the picture shows itself


def begin(target: Target, aim: Aim) -> Running:
    """Return the attack, which starts from the base's own picture, noised, at one step and another.

    It begins where there is most noise, and ends at half of the steps.
    """
    require_scaled(target.model)

    def attempts(case: Case) -> Iterator[Attempt]:
        generator = aim.generator("noised", case.number)
        prompt = aim.asked[case.number]
        said = target.encode([prompt])
        x_0 = target.of_base([case.prompt], [case.seed])
        steps = target.model.sampler(target.sampling.inference_steps).timesteps
        for number in range(aim.budget.attempts):
            start = round(FURTHEST * len(steps) * (number + 1) / aim.budget.attempts)
            x_t, _ = target.noised(x_0, steps[start : start + 1], generator)
            yield Attempt(said, prompt, latents=x_t, start=start)

    return attempts
