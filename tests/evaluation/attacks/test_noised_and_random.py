"""Noised context and the control: where they start, and what they draw."""

from __future__ import annotations

import pytest
import torch
from attacks_by_hand import asked, encoded, own_ids, renoised
from families import tiny_model

from multierase import SamplingSettings
from multierase.evaluation.attacks import ATTACKS, Budget, noised, random_tokens
from multierase.evaluation.attacks.run import copied, target_of


@pytest.mark.parametrize(
    ("steps", "attempts", "starts"),
    [
        (10, 4, [1, 2, 4, 5]),
        (25, 4, [3, 6, 9, 12]),
        (25, 10, [1, 2, 4, 5, 6, 8, 9, 10, 11, 12]),
        (10, 1, [5]),
        (1, 1, [0]),
    ],
)
def test_it_starts_where_it_says(model, base, aim, cases, steps, attempts, starts):
    target = target_of(model, base, SamplingSettings(steps, 1.0))
    wanted = aim(attempts=attempts, asked={case.number: "a cat" for case in cases})
    made = list(noised.begin(target, wanted)(cases[0]))
    assert [attempt.start for attempt in made] == starts

    generator = wanted.generator("noised", cases[0].number)
    x_0 = target.of_base([cases[0].prompt], [cases[0].seed])
    model.pipeline.scheduler.set_timesteps(steps)
    for attempt in made:
        t = model.pipeline.scheduler.timesteps[attempt.start].reshape(1)
        noise = torch.randn(x_0.shape, generator=generator)
        torch.testing.assert_close(attempt.latents, renoised(model.pipeline, x_0, noise, t))
        torch.testing.assert_close(attempt.conditioning["tokens"], asked(model.pipeline, "a cat"))


def test_a_flow_starts_between_noise_and_picture(tokenizer, aim, cases):
    model = tiny_model("sd3", tokenizer)
    target = target_of(model, copied(model), SamplingSettings(4, 1.0))
    wanted = aim(attempts=2)
    x_0 = target.of_base([cases[0].prompt], [cases[0].seed])
    generator = wanted.generator("noised", cases[0].number)
    scheduler = model.pipeline.scheduler
    scheduler.set_timesteps(4)
    for attempt, start in zip(noised.begin(target, wanted)(cases[0]), (1, 2), strict=True):
        assert attempt.start == start
        noise = torch.randn(x_0.shape, generator=generator)
        expected = scheduler.scale_noise(x_0, scheduler.timesteps[start].reshape(1), noise)
        torch.testing.assert_close(attempt.latents, expected)


def test_the_control_draws_tokens_before_the_prompt(model, target, aim, cases, text):
    made = list(random_tokens.begin(target, aim(attempts=40))(cases[0]))
    own = own_ids(model.pipeline, cases[0].prompt)
    drawn = set()
    for attempt in made:
        assert list(attempt.ids)[3:] == own
        drawn |= set(attempt.ids[:3])
        torch.testing.assert_close(
            attempt.conditioning["tokens"], encoded(model.pipeline, list(attempt.ids))
        )
    assert text.ordinary[list(drawn)].all()
    assert len(drawn) > 80  # 120 of 460, some of them twice
    assert target.evaluations == 0


def test_the_control_fits_in_a_prompt(target, aim, cases, text):
    (attempt,) = random_tokens.begin(target, aim(tokens=99))(cases[0])
    assert len(attempt.ids) == text.most


def test_the_control_makes_as_many_pictures_as_what_it_is_compared_with():
    for name in ("quick", "paper"):
        control, search = (ATTACKS[attack].budget(name) for attack in ("random", "unlearn-diff"))
        assert (control.attempts, control.tokens) == (search.attempts, search.tokens)
    assert ATTACKS["unlearn-diff"].budget("paper") == Budget(attempts=50, steps=40, tokens=3)
