"""Denoising partway, batched, is denoising one by one; batches are cut and joined."""

from __future__ import annotations

import torch

from multierase.training import trajectories as module
from multierase.training.trajectories import (
    Batch,
    EvaluationCounter,
    denoise_partway,
    in_parts,
    trajectories,
)

STEPS = 5


def test_partway_with_mixed_stops_equals_one_by_one(tiny):
    stops = torch.tensor([3, 0, 4, 1, 1])
    noise = torch.randn(5, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    text = tiny.encode(["Noto", "a church", "a cat by Noto", "Noto", "Twemoji"])
    null = tiny.encode([""] * 5)
    sampler = tiny.sampler(STEPS)
    together, t = denoise_partway(tiny.predict, sampler, tiny.guide, noise, stops, text, null, 3.0)

    for i, stop in enumerate(stops.tolist()):
        x_t = sampler.start(noise[i : i + 1])
        for index in range(stop):
            now = sampler.timesteps[index][None]
            with torch.no_grad():
                eps_c, eps_n = (
                    tiny.predict(x_t, now, part.take(slice(i, i + 1))) for part in (text, null)
                )
            x_t = sampler.step(eps_n + 3.0 * (eps_c - eps_n), index, x_t)
        torch.testing.assert_close(together[i : i + 1], x_t, atol=1e-4, rtol=1e-4)
        assert t[i] == sampler.timesteps[stop]


def test_partway_is_a_point_of_the_whole_trajectory(tiny):
    noise = torch.randn(1, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    text, null, sampler = tiny.encode(["Noto"]), tiny.encode([""]), tiny.sampler(STEPS)
    options = tiny.predict, sampler, tiny.guide
    points = list(trajectories(*options, noise, text, null, 2.0))
    assert len(points) == STEPS
    for index, (x_t, t, eps_concept, eps_null) in enumerate(points):
        partway, due = denoise_partway(*options, noise, torch.tensor([index]), text, null, 2.0)
        torch.testing.assert_close(x_t, partway, atol=1e-5, rtol=1e-5)
        assert t == due
        for eps, conditioning in ((eps_concept, text), (eps_null, null)):
            torch.testing.assert_close(eps, tiny.predict(x_t, t, conditioning))


def test_large_latents_are_predicted_in_parts(tiny, monkeypatch):
    generator, sizes = torch.Generator().manual_seed(0), []
    x_t = torch.randn(5, *tiny.latent_shape, generator=generator)
    t, text = torch.arange(100, 600, 100), tiny.encode(["a", "b", "c", "d", "e"])

    def predict(x_t, t, text):
        sizes.append(len(x_t))
        return tiny.predict(x_t, t, text)

    with torch.no_grad():
        whole = in_parts(predict, x_t, t, text)
        monkeypatch.setattr(module, "POSITIONS_AT_ONCE", 2 * x_t[0, 0].numel() + 1)
        parts = in_parts(predict, x_t, t, text)
        monkeypatch.setattr(module, "POSITIONS_AT_ONCE", 1)
        in_parts(predict, x_t[:2], t[:2], text.take(slice(0, 2)))
    torch.testing.assert_close(parts, whole)
    assert sizes == [5, 2, 2, 1, 1, 1]


def test_batches_are_cut_and_joined(tiny):
    def batch(count, kept):
        noise = torch.randn(count, *tiny.latent_shape)
        text = tiny.encode(["Noto"] * count)
        nothing = text.take(slice(0, count if kept else 0))
        eps_kept = noise if kept else noise[:0]
        return Batch(noise, torch.arange(count), text, text, noise, noise, noise, nothing, eps_kept)

    for kept in (True, False):
        whole = Batch.cat([batch(2, kept), batch(3, kept)])
        assert len(whole) == 5
        some = whole.take(torch.tensor([4, 0]))
        assert torch.equal(some.x_t, whole.x_t[[4, 0]])
        assert some.t.tolist() == [2, 0]
        assert len(some.kept) == len(some.eps_kept) == (2 if kept else 0)


def test_a_training_step_counts_what_it_costs():
    assert EvaluationCounter(forward=10, trained=4, step_cost=2.5).total == 20
