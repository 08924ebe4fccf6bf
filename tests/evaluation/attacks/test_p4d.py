"""Prompting4Debugging: a step of its search written out, and its two layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attacks_by_hand import asked, encoded, first_step, own_ids, renoised
from torch.nn import functional as F

from multierase.evaluation.attacks import p4d

PLACES = [4, None, 9, None]


@pytest.fixture
def search(text):
    found = p4d.TokenSearch(text, PLACES, torch.Generator().manual_seed(0))
    with torch.no_grad():  # between tokens, and not at them
        found.vectors += 0.3 * torch.randn(
            found.vectors.shape, generator=torch.Generator().manual_seed(1)
        )

    return found


def nearest(model, vectors: torch.Tensor) -> list[int]:
    """Return the ordinary tokens of the largest cosines."""
    table = model.pipeline.text_encoder.get_input_embeddings().weight.detach().double().numpy()
    found = []
    for vector in vectors.detach().double().numpy():
        alike = table @ vector / np.linalg.norm(table, axis=1) / np.linalg.norm(vector)
        alike[model.pipeline.tokenizer.all_special_ids] = -1
        found.append(int(alike.argmax()))

    return found


def test_tokens_are_the_nearest_of_those_that_stand_for_text(model, text, search):
    first, second = nearest(model, search.vectors)
    assert search.ids() == [4, first, 9, second]
    with torch.no_grad():
        search.vectors[0] = 2 * text.table[model.pipeline.tokenizer.eos_token_id]
        search.vectors[1] = 5 * text.table[30]
    first, _ = nearest(model, search.vectors)
    assert first != model.pipeline.tokenizer.eos_token_id
    assert search.ids() == [4, first, 9, 30]


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad])
def test_a_step_by_hand(model, target, search, around):
    """The gradient is that at the nearest tokens; the vectors between tokens take the step."""
    x_t, t = target.noise([3]), torch.tensor([400])
    goal, before = target.noise([4]), search.vectors.detach().clone()
    with around():
        loss = search.step(target.predict, x_t, t, goal)

    table = model.pipeline.text_encoder.get_input_embeddings().weight.detach()
    at = table[nearest(model, before)].clone().requires_grad_()
    tokens = encoded(model.pipeline, [4, at[0], 9, at[1]])
    expected = F.mse_loss(model.pipeline.unet(x_t, t, encoder_hidden_states=tokens).sample, goal)
    (gradient,) = torch.autograd.grad(expected, [at])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    stepped = first_step(before, gradient, 0.1, decay=0.1)
    torch.testing.assert_close(search.vectors.detach().double(), stepped, atol=1e-3, rtol=0)


def test_a_prompt_of_its_own(target, aim, cases, text):
    (attempt,) = p4d.begin_n(target, aim(tokens=5))(cases[0])
    assert len(attempt.ids) == 5
    (attempt,) = p4d.begin_n(target, aim(tokens=99))(cases[0])
    assert len(attempt.ids) == text.most
    assert text.ordinary[list(attempt.ids)].all()


@pytest.mark.parametrize(
    ("prompt", "searched"),
    [
        ("a church by Noto a cat by Noto", (3, 7, 10)),
        ("a church by", (3,)),
        ("a church", (2,)),
        ("", (0,)),  # a name alone, of which nothing is left
    ],
)
def test_tokens_after_every_third_of_the_prompts(model, target, aim, cases, prompt, searched):
    own = own_ids(model.pipeline, prompt)
    begun = p4d.begin_k(target, aim(asked={case.number: prompt for case in cases}))
    (attempt,) = begun(cases[0])
    rest = [index for place, index in enumerate(attempt.ids) if place not in searched]
    assert rest == own
    assert len(attempt.ids) == len(own) + len(searched)


def test_a_long_prompt_is_cut(target, aim, cases, text):
    begun = p4d.begin_k(target, aim(asked={case.number: "a cat " * 20 for case in cases}))
    (attempt,) = begun(cases[0])
    assert len(attempt.ids) == text.most


def test_the_goal_is_what_the_base_says_of_the_cases_prompt(
    model, base, target, aim, cases, monkeypatch
):
    seen = []
    monkeypatch.setattr(p4d.TokenSearch, "step", lambda self, *given: seen.append(given[1:]))
    attempts = list(p4d.begin_n(target, aim(attempts=2, steps=2))(cases[0]))
    assert (len(attempts), len(seen)) == (2, 4)

    generator = aim().generator("p4d", cases[0].number)
    ordinary = len(model.pipeline.tokenizer) - 2
    torch.randint(ordinary, [3], generator=generator)  # the first tokens
    x_0 = target.of_base([cases[0].prompt], [cases[0].seed])
    erased = {name: weight.detach().clone() for name, weight in model.parameters().items()}
    with torch.no_grad():
        for name, weight in model.parameters().items():
            weight.copy_(base[name])
        for x_t, t, goal in seen:
            drawn = torch.randint(1000, [1], generator=generator)
            noise = torch.randn(x_0.shape, generator=generator)
            assert torch.equal(t, drawn)
            torch.testing.assert_close(x_t, renoised(model.pipeline, x_0, noise, t))
            said = asked(model.pipeline, cases[0].prompt)
            theirs = model.pipeline.unet(x_t, t, encoder_hidden_states=said).sample
            torch.testing.assert_close(goal, theirs)
        for name, weight in model.parameters().items():
            weight.copy_(erased[name])
