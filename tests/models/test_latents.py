"""Latents set against diffusers' own schedulers and pipelines."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FluxPipeline
from families import tiny_flux, tiny_model, tiny_sd, tiny_sdxl

from multierase import from_pipeline
from multierase.errors import UsageError
from multierase.models.latents import decode, noised, require_scaled, told_guidance, unasked

FAMILIES = ["emoji", "sd1", "sd2", "sdxl", "sdxl-v", "sd3", "flux"]
FLOW = ("sd3", "flux")
STEPS = 4


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, emoji, tokenizer):
    name = request.param
    if name == "emoji":
        return emoji
    if name.startswith("sd") and name[-1] in "12":
        return from_pipeline(tiny_sd(tokenizer, version=int(name[-1])), name)
    if name == "sdxl-v":
        return from_pipeline(tiny_sdxl(tokenizer, v_prediction=True), name)

    return tiny_model(name, tokenizer)


@pytest.fixture
def x_0(model):
    return torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise(x_0):
    return torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))


def is_flow(model) -> bool:
    return model.parametrisation == "flow"


def test_noised_latents_are_the_schedulers(model, x_0, noise):
    if is_flow(model):
        scheduler = model.pipeline.scheduler
        shift = {"mu": 0.9} if scheduler.config.use_dynamic_shifting else {}
        scheduler.set_timesteps(STEPS, **shift)
        t = scheduler.timesteps[[1, 3]]
        theirs = scheduler.scale_noise(x_0, t, noise)
    else:
        t = torch.tensor([10, 700])
        theirs = DDIMScheduler.from_config(model.pipeline.scheduler.config).add_noise(x_0, noise, t)

    torch.testing.assert_close(noised(model, x_0, noise, t)[0], theirs)


def test_what_should_be_predicted_is_what_training_asks_for(model, x_0, noise, monkeypatch):
    """A denoiser that says what diffusers' training scripts take as the target is right."""
    t = torch.tensor([10, 700])
    x_t, goal = noised(model, x_0, noise, t)
    scheduler = model.pipeline.scheduler
    if is_flow(model):
        right = noise - x_0
    elif scheduler.config.prediction_type == "v_prediction":
        ddim = DDIMScheduler.from_config(scheduler.config)
        right = ddim.get_velocity(x_0, noise, t)
        assert not torch.allclose(right, goal)
    else:
        right = noise
    if isinstance(model.pipeline, FluxPipeline):
        right = FluxPipeline._pack_latents(right, *right.shape)

    (denoiser,) = model.components.values()
    monkeypatch.setattr(denoiser, "forward", lambda *_, **__: (right,))
    predicted = model.predict(x_t, t, model.encode(["a cat", "a church"]))
    torch.testing.assert_close(predicted, goal, atol=1e-5, rtol=1e-5)


def test_who_predicts_rightly_stays_between_noise_and_picture(model, x_0, noise, monkeypatch):
    """A law: the sampler's steps lead from one noised picture to the next."""
    if not is_flow(model):
        # Steps as long as the times are apart, and no clipping, as in the released checkpoints.
        given = {"timestep_spacing": "leading", "clip_sample": False}
        ddim = DDIMScheduler.from_config(model.pipeline.scheduler.config, **given)
        monkeypatch.setattr(model.pipeline, "scheduler", ddim)
    sampler = model.sampler(STEPS)
    for index in range(STEPS - 1):
        here, there = (sampler.timesteps[place].expand(2) for place in (index, index + 1))
        x_t, goal = noised(model, x_0, noise, here)
        torch.testing.assert_close(
            sampler.step(goal, index, x_t),
            noised(model, x_0, noise, there)[0],
            atol=1e-5,
            rtol=1e-4,
        )


def test_pictures_are_decoded_as_by_the_pipeline(model):
    def made(output_type):
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "generator": generator, "output_type": output_type}
        _, *sides = model.latent_shape
        height, width = (side * model.scale for side in sides)
        return model.pipeline("a cat", height=height, width=width, **options).images

    latents = made("latent")
    if isinstance(model.pipeline, FluxPipeline):
        side = model.latent_shape[-1] * model.scale
        latents = FluxPipeline._unpack_latents(latents, side, side, model.scale)
    pictures = decode(model, latents)
    torch.testing.assert_close(pictures, made("pt").float(), atol=1e-5, rtol=1e-5)
    assert 0 <= pictures.min() < pictures.max() <= 1


def test_what_is_asked_beside_a_prompt_is_its_pipelines(model):
    if not model.guided:
        return
    ours, empty = unasked(model), model.text.fresh([""])
    assert list(ours) == list(empty)
    zeros = getattr(model.pipeline.config, "force_zeros_for_empty_prompt", False)
    for stream in ours:
        expected = torch.zeros_like(empty[stream]) if zeros else empty[stream]
        torch.testing.assert_close(ours[stream], expected)


def test_the_guidance_that_a_denoiser_is_told(tokenizer):
    seen = []
    for schnell in (False, True):
        model = from_pipeline(tiny_flux(tokenizer, schnell=schnell), "tiny", t5_length=12)
        (denoiser,) = model.components.values()
        watch = denoiser.register_forward_hook(
            lambda _, args, kwargs, output: seen.append(kwargs["guidance"]), with_kwargs=True
        )
        x_t, said = torch.zeros(1, *model.latent_shape), model.encode(["a cat"])
        with told_guidance(model, 3.5):
            model.predict(x_t, torch.tensor([500.0]), said)
        model.predict(x_t, torch.tensor([500.0]), said)
        with pytest.raises(ZeroDivisionError), told_guidance(model, 3.5):
            _ = 1 / 0
        watch.remove()
        assert not denoiser._forward_pre_hooks

    assert [value.tolist() for value in seen[:2]] == [[3.5], [1.0]]
    assert seen[2:] == [None, None]


def test_latents_that_are_more_than_scaled_are_refused(tokenizer):
    model = tiny_model("flux2-klein", tokenizer)
    with pytest.raises(UsageError, match="cannot be decoded one by one here: this fits stable-"):
        require_scaled(model)
    with pytest.raises(UsageError, match="'flux-2-klein'"):
        decode(model, torch.zeros(1, *model.latent_shape))
