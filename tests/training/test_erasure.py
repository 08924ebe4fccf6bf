"""One erasure: its loss, rates and cost, written out once more."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trained import erasure_of

from multierase import Concept, EraseSettings, erase
from multierase.models.scopes import STABLE_DIFFUSION
from multierase.training.delta import predictions, together
from multierase.training.loop import descend

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure

SENTENCE = Concept("Noto", ("a church by Noto",), ("a church",))


def test_one_step_agrees_with_a_plain_rendering_of_the_paper(tiny):
    """One sample, one step of Adam, without any of the package's training code."""
    settings = EraseSettings(
        kind="none",
        steps=1,
        batch_size=1,
        sampler_steps=6,
        stop_at=None,
        scope="esd-x",
        decouple=False,
        schedule="frozen",
        eta=1.0,
        free_learning_rate=1e-3,
    )
    increment = erase(tiny, "Noto", settings)

    noise, stops, *_ = erasure_of(tiny, "Noto", settings).examples.draw(0)
    unet = tiny.pipeline.unet
    scheduler = tiny.sampler(6)._scheduler
    concept, null = (tiny.encode([prompt])["tokens"] for prompt in ("Noto", ""))
    x_t = noise.clone()
    with torch.no_grad():
        for t in scheduler.timesteps[: int(stops[0])]:
            eps_c, eps_n = (unet(x_t, t, text).sample for text in (concept, null))
            x_t = scheduler.step(eps_n + 3.0 * (eps_c - eps_n), t, x_t).prev_sample
        t = scheduler.timesteps[int(stops[0])]
        eps_c, eps_n = (unet(x_t, t, text).sample for text in (concept, null))

    parameters = {n: p for n, p in unet.named_parameters() if ".attn2." in n}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    target = eps_n - 1.0 * (eps_c - eps_n)
    loss = ((unet(x_t, t, concept).sample - target) ** 2).mean()
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for parameter in parameters.values():
        parameter.requires_grad_(False)

    agree, large = [], 0
    for name, gradient in zip(parameters, gradients, strict=True):
        clear = gradient.abs() > 1e-6  # Adam's first step is the learning rate times the sign
        large += int(clear.sum())
        expected = -settings.free_learning_rate * gradient.sign()
        off = (increment.dense(f"unet.{name}") - expected).abs()[clear]
        agree.append((off < 0.02 * settings.free_learning_rate).float())
    assert large > 1000
    assert torch.cat(agree).mean() > 0.999


@pytest.mark.parametrize("decouple", [True, False])
@pytest.mark.parametrize("scope", STABLE_DIFFUSION.scopes)
@pytest.mark.parametrize("concept", [Concept("Noto"), SENTENCE], ids=["name", "sentence"])
def test_the_correlation_is_the_students_own(tiny, quick, scope, decouple, concept):
    """Also where ``ε_θ(∅)`` is not asked, because it is said to be ``ε*(∅)``."""
    settings = dataclasses.replace(
        quick, scope=scope, decouple=decouple, known=False, free_learning_rate=1e-3
    )
    erasure = erasure_of(tiny, concept, settings, "correlation")
    first, second = erasure.examples.batches(range(2), {})
    descend([erasure], [first])

    weights = together([erasure.student])
    with torch.no_grad():
        student, null = (
            tiny.predict(second.x_t, second.t, text, weights).numpy()
            for text in (second.text, second.null)
        )
    frozen = (second.eps_concept - second.eps_null).numpy()
    expected = ((student - null) * frozen).mean()

    descend([erasure], [second])
    assert erasure.correlation.curve[1] == pytest.approx(expected, rel=2e-3)


def test_the_students_own_context_is_asked_where_nothing_keeps_it(tiny, quick):
    free = dataclasses.replace(quick, decouple=False)
    spent = {
        method: erase(tiny, "Noto", free, method=method).provenance.cost.evaluations
        for method in ("esd", "sepme")
    }
    assert spent["sepme"] > spent["esd"]
    kept = {
        method: erase(tiny, "Noto", quick, method=method).provenance.cost.evaluations
        for method in ("esd", "sepme")
    }
    assert kept["sepme"] == kept["esd"]


@pytest.mark.parametrize("regularizer", ["none", "l1", "l2"])
def test_the_loss_is_objective_kept_and_regulariser(tiny, quick, regularizer):
    settings = dataclasses.replace(
        quick, keep=("a cat",), keep_weight=2.0, regularizer=regularizer, beta=0.1, decouple=False
    )
    erasure = erasure_of(tiny, "Noto", settings)
    for variable in erasure.student.variables.values():
        variable.data.normal_(std=0.01, generator=torch.Generator().manual_seed(0))
    (batch,) = erasure.examples.batches(range(1), {})
    with torch.no_grad(), predictions([erasure.student], [erasure.inputs(batch)]) as (eps,):
        loss = erasure.loss(batch, eps)

    weights = together([erasure.student])
    own, kept = (
        tiny.predict(batch.x_t, batch.t, text, weights) for text in (batch.text, batch.kept)
    )
    deltas = [variable.detach() for variable in erasure.student.variables.values()]
    sizes = {
        "none": 0.0,
        "l1": sum(delta.abs().sum() for delta in deltas) / len(deltas),
        "l2": sum(delta.square().sum() for delta in deltas) / len(deltas),
    }
    others = 2.0 * (kept - batch.eps_kept).square().mean() + 0.1 * sizes[regularizer]
    torch.testing.assert_close(loss.own, (own - batch.target).square().mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(loss.others, others.detach(), rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["l1", "l2"])
def test_regularisation_shrinks_the_increment(tiny, regularizer):
    settings = EraseSettings(
        kind="none",
        steps=30,
        batch_size=2,
        sampler_steps=4,
        learning_rate=3e-2,
        free_learning_rate=3e-3,
        stop_at=None,
        scope="esd-x",
    )
    free = erase(tiny, "Noto", settings)
    held = erase(tiny, "Noto", dataclasses.replace(settings, regularizer=regularizer, beta=1.0))
    assert held.norm() < 0.8 * free.norm()


@pytest.mark.slow
def test_the_keep_loss_keeps(tiny):
    from test_plan import moves

    settings = EraseSettings(
        kind="none",
        steps=40,
        batch_size=2,
        sampler_steps=4,
        free_learning_rate=3e-3,
        stop_at=None,
        scope="esd-x",
        decouple=False,
        keep=("a church by Twemoji",),
    )
    changes = {}
    for weight in (0.0, 10.0):
        increment = erase(tiny, "Noto", dataclasses.replace(settings, keep_weight=weight))
        changes[weight] = moves(tiny, increment * (1 / 30), "a church by Twemoji")
    assert changes[10.0] < 0.7 * changes[0.0]


def test_rates_are_the_settings_or_a_share_of_each_weight(tiny, quick):
    settings = dataclasses.replace(quick, scope="esd-x", learning_rate=0.25)
    erasure = erasure_of(tiny, "Noto", settings)
    rates = [group["lr"] for group in erasure.optimizer.param_groups]
    here = tiny.parameters()
    for name, rate in zip(erasure.student.variables, rates, strict=True):
        if name in tiny.readers:
            assert rate == 0.25
        else:
            size = here[name].double().square().mean().sqrt().item()
            assert rate == pytest.approx(0.005 * size, rel=1e-5)


def test_evaluations_are_counted(tiny):
    settings = EraseSettings(
        kind="none",
        learning_rate=0.1,
        schedule="frozen",
        steps=2,
        batch_size=3,
        sampler_steps=5,
        stop_at=None,
    )
    examples = erasure_of(tiny, "Noto", settings).examples
    stops = torch.cat([examples.draw(step)[1] for step in range(2)])
    spent = erase(tiny, "Noto", settings).provenance.cost.evaluations
    trained = spent - 2 * int(stops.sum()) - 2 * len(stops)
    # Forward and backward of a strict step: about two forwards a latent.
    assert 1.7 * 6 <= trained <= 2.3 * 6


def test_a_diverging_erasure_is_an_error(tiny, quick):
    settings = dataclasses.replace(quick, scope="full", free_learning_rate=1e30, steps=5)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        erase(tiny, "Noto", settings)
