"""Relearning: one step of Adam on all weights, none of them the model's own."""

from __future__ import annotations

import copy

import torch
from attacks_by_hand import asked, first_step, renoised
from torch import nn
from torch.nn import functional as F

from multierase.evaluation.attacks import relearning

BUDGET = {"steps": 1, "batch": 3, "pictures": 2}


def test_a_step_by_hand(model, target, aim, cases):
    bare = {3: "a church", 4: "a cat", 7: "art"}
    wanted = aim(asked=bare, **BUDGET)
    before = copy.deepcopy(model.pipeline.unet)
    (attempt,) = relearning.begin(target, wanted)(cases[1])

    generator = wanted.generator("relearning")
    chosen = torch.randint(2, [3], generator=generator)
    t = torch.randint(1000, [3], generator=generator)
    pictures = target.of_base([case.prompt for case in cases[:2]], [10, 11])[chosen]
    noise = torch.randn(pictures.shape, generator=generator)
    said = torch.cat([asked(model.pipeline, ["a church", "a cat"][i]) for i in chosen])
    before.requires_grad_()
    x_t = renoised(model.pipeline, pictures, noise, t)
    F.mse_loss(before(x_t, t, encoder_hidden_states=said).sample, noise).backward()

    normal = set()
    for name, layer in before.named_modules():
        if isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):
            normal |= {f"{name}.{own}" for own, _ in layer.named_parameters()}
    learnt = {f"unet.{name}" for name, _ in before.named_parameters() if name not in normal}
    assert set(attempt.weights) == learnt

    for name, weight in before.named_parameters():
        if name in normal:
            continue
        rate = 1e-3 * max(weight.detach().square().mean().sqrt().item(), 1e-4)
        stepped = first_step(weight.detach(), weight.grad, rate)
        near = (attempt.weights[f"unet.{name}"].double() - stepped).abs() <= 0.01 * rate
        # Where a gradient is nearly 0 its rounding decides its sign.
        assert (near | (weight.grad.abs() < 1e-7)).all(), name
        assert near.float().mean() > 0.5, name
    torch.testing.assert_close(attempt.conditioning["tokens"], asked(model.pipeline, "a cat"))


def test_the_models_own_weights_stay(model, target, aim, cases):
    places = dict(model.parameters())
    before = {name: weight.detach().clone() for name, weight in places.items()}
    (attempt,) = relearning.begin(target, aim(steps=3, batch=2, pictures=2))(cases[0])
    target.draw(attempt.conditioning, [1], attempt.weights)
    for name, weight in model.parameters().items():
        assert weight is places[name]
        assert torch.equal(weight, before[name])
        assert not weight.requires_grad
        assert weight.grad is None
    changed = sum(not torch.equal(attempt.weights[name], before[name]) for name in attempt.weights)
    assert changed > 0.9 * len(attempt.weights)


def test_it_learns_the_pictures(model, target, aim, cases):
    (attempt,) = relearning.begin(target, aim(steps=6, batch=2, pictures=1))(cases[0])
    x_0 = target.of_base([cases[0].prompt], [10]).expand(10, -1, -1, -1)
    t = torch.arange(10) * 100
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3))
    x_t, said = renoised(model.pipeline, x_0, noise, t), target.encode([cases[0].prompt]).repeat(10)
    with torch.no_grad():
        erased = F.mse_loss(model.predict(x_t, t, said), noise)
        tuned = F.mse_loss(model.predict(x_t, t, said, attempt.weights), noise)
    assert tuned < erased
