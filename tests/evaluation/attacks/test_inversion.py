"""Concept inversion: one step of AdamW on the new token, and where it stands in sentences."""

from __future__ import annotations

import pytest
import torch
from attacks_by_hand import encoded, first_step, own_ids, renoised
from torch.nn import functional as F

from multierase.evaluation.attacks import inversion
from multierase.evaluation.cases import Case

BUDGET = {"steps": 1, "batch": 3, "pictures": 4}


def places(model, prompt: str, vector: torch.Tensor) -> list:
    """Return a sentence's tokens with the vector where the name is, or at the end."""
    own, (name,) = own_ids(model.pipeline, prompt), own_ids(model.pipeline, "Noto")
    if name not in own:
        return [*own, vector]

    return [vector if index == name else index for index in own]


def test_a_step_by_hand(model, target, aim, cases):
    wanted = aim(**BUDGET)
    (attempt,) = inversion.begin(target, wanted)(cases[0])

    generator = wanted.generator("inversion")
    chosen = torch.randint(4, [3], generator=generator)
    t = torch.randint(1000, [3], generator=generator)
    prompts = [cases[i % 3].prompt for i in range(4)]
    pictures = target.of_base(prompts, [10, 11, 12, 13])[chosen]
    noise = torch.randn(pictures.shape, generator=generator)
    table = model.pipeline.text_encoder.get_input_embeddings().weight.detach()
    before = table[own_ids(model.pipeline, "Noto")[0]].clone().requires_grad_()
    said = [encoded(model.pipeline, places(model, prompts[i], before)) for i in chosen]
    x_t = renoised(model.pipeline, pictures, noise, t)
    eps = model.pipeline.unet(x_t, t, encoder_hidden_states=torch.cat(said)).sample
    (gradient,) = torch.autograd.grad(F.mse_loss(eps, noise), [before])

    stepped = first_step(before.detach(), gradient, 5e-3, decay=0.01)
    assert (stepped - before).abs().min() > 1e-3
    torch.testing.assert_close(attempt.vector.double(), stepped, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        attempt.conditioning["tokens"],
        encoded(model.pipeline, places(model, cases[0].prompt, attempt.vector)),
    )


def test_it_learns_what_the_pictures_have_in_common(model, target, aim, cases):
    """The loss on the pictures at fixed noise is less with the token learnt than with the name."""
    (attempt,) = inversion.begin(target, aim(steps=15, batch=2, pictures=1))(cases[0])
    x_0 = target.of_base([cases[0].prompt], [10]).expand(10, -1, -1, -1)
    t = torch.arange(10) * 100
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3))
    x_t = renoised(model.pipeline, x_0, noise, t)
    losses = []
    for tokens in (attempt.conditioning["tokens"], target.encode([cases[0].prompt])["tokens"]):
        with torch.no_grad():
            said = tokens.expand(10, -1, -1)
            eps = model.pipeline.unet(x_t, t, encoder_hidden_states=said).sample
        losses.append(F.mse_loss(eps, noise).item())
    assert losses[0] < losses[1]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a church by Noto", "a church by <new>"),
        ("Noto church", "<new> church"),
        ("a church", "a church <new>"),
        ("", "<new>"),
    ],
)
def test_where_the_token_stands(model, target, aim, prompt, words):
    case = Case(1, prompt, 2, {"studio": "Noto"})
    (attempt,) = inversion.begin(target, aim(cases=(case,)))(case)
    assert attempt.prompt == words
    expected = encoded(model.pipeline, places(model, prompt, attempt.vector))
    torch.testing.assert_close(attempt.conditioning["tokens"], expected)


def test_there_is_room_for_the_token_in_a_long_prompt(target, aim, text):
    for prompt in ("a cat " * 20, "a cat " * 6 + "a Noto"):
        case = Case(1, prompt, 2, {"studio": "Noto"})
        (attempt,) = inversion.begin(target, aim(cases=(case,)))(case)
        assert "<new>" in attempt.prompt
        assert len(attempt.prompt.split()) == text.most
