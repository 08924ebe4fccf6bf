"""Negated task vectors: the noise, what is learned, and the opposite of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from multierase import Concept, erase, erase_several
from multierase.errors import Cancelled, UsageError
from multierase.methods import METHODS, Order, task_vector
from multierase.methods.task_vector import _Tuning
from multierase.training.delta import together

CONCEPT = Concept("Noto", ("a church by Noto",), ("a church",))


def noised_by_hand(model, pictures, noise, t):
    """``√ᾱ_t x_0 + √(1 − ᾱ_t) ε``."""
    signal = model.pipeline.scheduler.alphas_cumprod[t.long()].reshape(-1, 1, 1, 1)

    return signal.sqrt() * pictures + (1 - signal).sqrt() * noise


def loss(model, tuning, pictures, weights):
    """Return the mean squared error of the predicted noise, over fixed noise of all pictures."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(pictures.shape, generator=generator)
    total = 0.0
    for time in tuning.sampler.timesteps:
        x_t, t = noised_by_hand(model, pictures, noise, time), time.expand(len(pictures))
        text = model.encode(list(CONCEPT.prompts) * len(pictures))
        with torch.no_grad():
            found = model.predict(x_t, t, text, weights)
        total += (found - noise).square().mean().item()

    return total


def test_what_is_learned_draws_the_concept_better_and_the_increment_worse(tiny, quick):
    settings = dataclasses.replace(quick, steps=16, sampling_batch=8, free_learning_rate=5e-3)
    increment = erase(tiny, CONCEPT, settings, method="task-vector")

    tuning = _Tuning(tiny, CONCEPT, Order([CONCEPT], settings))
    pictures, prompts = tuning._drawn()
    assert pictures.shape == (8, *tiny.latent_shape)
    assert set(prompts) == set(CONCEPT.prompts)

    here = tiny.parameters()
    learned, erased = {}, {}
    for name, delta in increment.deltas.items():
        learned[name] = here[name].detach() - delta / task_vector.STRENGTH
        erased[name] = here[name].detach() + delta
    losses = [loss(tiny, tuning, pictures, weights) for weights in (learned, None, erased)]
    assert losses == sorted(losses)
    assert losses[0] < losses[1] < losses[2]


def test_the_first_step_is_adams_along_the_gradient_of_the_diffusion_loss(tiny, quick):
    """``λ · lr · sign(∂‖ε_θ(x_t, c) − ε‖²/∂θ)``, with the gradient taken here by hand."""
    settings = dataclasses.replace(quick, steps=1, free_learning_rate=1e-3)
    increment = erase(tiny, CONCEPT, settings, method="task-vector")

    tuning = _Tuning(tiny, CONCEPT, Order([CONCEPT], settings))
    pictures, _ = tuning._drawn()
    generator = tuning._generator("step 0")
    size = settings.batch_size
    chosen = torch.randint(len(pictures), (size,), generator=generator)
    stops = torch.randint(settings.sampler_steps, (size,), generator=generator)
    noise = torch.randn(size, *tiny.latent_shape, generator=generator)
    x_t = noised_by_hand(tiny, pictures[chosen], noise, tuning.sampler.timesteps[stops])

    here = {name: tiny.parameters()[name] for name in increment.deltas}
    weights = {name: value.detach().clone().requires_grad_() for name, value in here.items()}
    text = tiny.encode(list(CONCEPT.prompts) * size)
    found = tiny.predict(x_t, tuning.sampler.timesteps[stops], text, weights)
    gradients = torch.autograd.grad((found - noise).square().mean(), list(weights.values()))

    for name, gradient in zip(weights, gradients, strict=True):
        large = gradient.abs() > 0.05 * gradient.abs().max()
        expected = task_vector.STRENGTH * 1e-3 * gradient.sign()
        torch.testing.assert_close(
            increment.dense(name)[large], expected[large], rtol=2e-2, atol=1e-6
        )


def test_any_scope_can_be_learned_and_the_provenance_says_how(tiny, quick):
    settings = dataclasses.replace(quick, scope="esd-u", rank=2, sampling_batch=2)
    increment = erase(tiny, CONCEPT, settings, method="task-vector")
    assert set(increment.deltas) == set(tiny.scope_parameters("esd-u"))
    assert dict(increment.readers) == {}
    made = increment.provenance
    assert (made.scope, made.seed, made.stop) == ("esd-u", quick.seed, None)
    assert made.settings["strength"] == task_vector.STRENGTH
    # Two pictures of four points with two predictions each, and three steps of two latents.
    assert made.cost.evaluations == 2 * 4 * 2 + 3 * 2 * task_vector.STEP_COST


def test_a_watcher_sees_the_opposite_and_ends_the_run(tiny, quick):
    seen = []

    def watch(progress):
        with progress.applied("Noto"):
            moved = [
                name
                for name, frozen in before.items()
                if not torch.equal(tiny.parameters()[name], frozen)
            ]
        seen.append((progress.step, progress.steps, len(moved)))
        return len(seen) < 2

    before = {name: value.detach().clone() for name, value in tiny.parameters().items()}
    order = Order([CONCEPT], quick, watch=watch)
    with pytest.raises(Cancelled, match="was ended at step 2 of 3"):
        next(METHODS["task-vector"].produce(tiny, order))
    count = len(tiny.scope_parameters(tiny.exact_scope))
    assert seen == [(1, 3, count), (2, 3, count)]

    tuning = _Tuning(tiny, CONCEPT, order)
    tuning.learner.variables[next(iter(tuning.learner.frozen))].data.fill_(1.0)
    name = next(iter(tuning.learner.frozen))
    shown = together([tuning._seen.student])[name]
    assert torch.allclose(shown, before[name] - task_vector.STRENGTH)


def test_what_a_task_vector_cannot_do_is_said_before_anything_is_drawn(tiny, quick, monkeypatch):
    monkeypatch.setattr(type(tiny), "predict", lambda *_: pytest.fail("it predicts"))
    with pytest.raises(UsageError, match="leave --simultaneous out"):
        erase_several(tiny, ["Noto", "Twemoji"], quick, method="task-vector", simultaneous=True)
    with pytest.raises(UsageError, match="cannot erase 'hat' from 'cowboy' alone"):
        erase(tiny, Concept("hat", erase_from="cowboy"), quick, method="task-vector")
    other = dataclasses.replace(quick, scope="text-input")
    with pytest.raises(ValueError, match="unknown scope 'text-input'"):
        erase(tiny, "Noto", other, method="task-vector")


def test_a_loss_that_is_not_finite_is_an_error(tiny, quick, monkeypatch):
    monkeypatch.setattr(task_vector, "squared_error", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        erase(tiny, CONCEPT, quick, method="task-vector")
