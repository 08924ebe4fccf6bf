"""Stable Diffusion XL, 3, FLUX.1 and FLUX.2 klein, tiny."""

from __future__ import annotations

import pytest
import torch
from contract import ModelContract
from diffusers import DDIMScheduler, FluxPipeline
from einops import rearrange
from families import tiny_flux, tiny_flux2_klein, tiny_sd3, tiny_sdxl

from multierase import from_pipeline


class TestStableDiffusionXL(ModelContract):
    """With zeros in the empty prompt's place, and v-prediction without."""

    @pytest.fixture(params=[False, True], ids=["epsilon", "v"])
    def model(self, tokenizer, request):
        return from_pipeline(tiny_sdxl(tokenizer, v_prediction=request.param), "tiny")


class FlowContract(ModelContract):
    @staticmethod
    def seen(model, args, kwargs, output):
        return kwargs["hidden_states"], kwargs["timestep"][:1], output

    @staticmethod
    def scheduler(model, steps):
        """The pipeline's own, as its call leaves it."""
        pipeline = model.pipeline
        pipeline(
            prompt="a cat", num_inference_steps=steps, output_type="latent", guidance_scale=1.0
        )
        pipeline.scheduler._step_index = pipeline.scheduler._begin_index = None
        return pipeline.scheduler


class TestStableDiffusion3(FlowContract):
    @pytest.fixture(params=[True, False], ids=["t5", "no-t5"])
    def model(self, tokenizer, request):
        return from_pipeline(tiny_sd3(tokenizer, t5=request.param), "tiny")


class TestFlux(FlowContract):
    @pytest.fixture(params=[False, True], ids=["dev", "schnell"])
    def model(self, tokenizer, request):
        return from_pipeline(tiny_flux(tokenizer, schnell=request.param), "tiny")

    @staticmethod
    def seen(model, args, kwargs, output):
        side = model.latent_shape[-1] * model.pipeline.vae_scale_factor
        x_t, output = (
            FluxPipeline._unpack_latents(packed, side, side, model.pipeline.vae_scale_factor)
            for packed in (kwargs["hidden_states"], output)
        )
        return x_t, 1000 * kwargs["timestep"][:1], output


class TestFlux2Klein(FlowContract):
    @pytest.fixture(params=[False, True], ids=["base", "distilled"])
    def model(self, request):
        return from_pipeline(tiny_flux2_klein(distilled=request.param), "tiny")

    def test_adjusting_sees_the_empty_prompts_prediction_once_a_step(self, model):
        if not model.guided:
            return
        firsts = []

        def nothing(null, asked, predict, first):
            firsts.append(first)
            return null

        def made(prompt):
            return model.pipeline(
                prompt=prompt,
                num_inference_steps=2,
                generator=torch.Generator().manual_seed(0),
                output_type="latent",
            ).images

        with model.adjusted(nothing):
            ours = [made("a cat"), made("a church")]
        assert firsts == [True, False, True, False]
        for picture in ours:
            torch.testing.assert_close(picture, made(""))

    @staticmethod
    def negative(model, prompt):
        return {"negative_prompt_embeds": model.encode([prompt])["tokens"]}

    @staticmethod
    def seen(model, args, kwargs, output):
        x_t, output = (
            rearrange(packed, "b (h w) c -> b c h w", h=model.latent_shape[-2])
            for packed in (kwargs["hidden_states"], output)
        )
        return x_t, 1000 * kwargs["timestep"][:1], output


def test_a_schedule_that_ends_at_noise_alone_is_sampled_beside_its_end(tokenizer):
    """Of v-prediction XL: there the signal is 0, and dividing by it would give no number."""
    pipeline = tiny_sdxl(tokenizer, v_prediction=True)
    changed = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **changed)
    model = from_pipeline(pipeline, "tiny")
    assert pipeline.scheduler.alphas_cumprod[-1] == 0

    sampler, x_t = model.sampler(4), torch.ones(1, *model.latent_shape)
    for index, t in enumerate(sampler.timesteps):
        x_t = sampler.step(model.predict(x_t, t.view(1), model.encode(["a cat"])), index, x_t)
    assert torch.isfinite(x_t).all()
