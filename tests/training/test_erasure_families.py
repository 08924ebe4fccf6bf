"""A whole erasure on every other family; random weights, but the real layouts."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from compositions import assert_bits, snapshot
from families import LENGTH, MAKE, SIDE, length_of, tiny_model

from multierase import (
    EraseSettings,
    SamplingSettings,
    Workspace,
    erase,
    export_pipeline,
    load_base,
)
from multierase.errors import IncrementFileError
from multierase.generate import generate
from multierase.training import objectives, trial

FAMILIES = list(MAKE)
ONE = SamplingSettings(inference_steps=2)


@pytest.fixture(autouse=True)
def every_name_is_drawn(monkeypatch):
    """Random weights tell no name from a made-up one."""
    monkeypatch.setattr(trial, "DRAWN", 0.1)


@pytest.fixture(params=FAMILIES)
def model(request, tokenizer):
    return tiny_model(request.param, tokenizer)


@pytest.fixture
def settings() -> EraseSettings:
    return EraseSettings(steps=8, trajectories=4, sampler_steps=4, kind="artist")


def test_two_concepts_are_erased_composed_certified_exported_and_restored(
    model, settings, tmp_path
):
    base, before = snapshot(model), generate(model, ["a cat by Noto"], [0], ONE)
    workspace = Workspace(tmp_path / "lib", model, create=True)
    for result in workspace.train("Noto", "Twemoji", settings=settings):
        stated = result.increment.provenance.certificate
        assert stated["degree"] < 0.9
        assert set(result.increment.readers.values()) <= set(model.streams)

    assert workspace.composer.solve == "joint"
    workspace.set({"Noto": 1.0, "Twemoji": 0.5})
    said = workspace.certify("Noto", "Twemoji")["concepts"]
    assert said["Noto"]["degree"] < 0.9
    after = generate(model, ["a cat by Noto"], [0], ONE)
    assert not torch.equal(after, before)

    folder = export_pipeline(model, workspace.composer, tmp_path / "out")
    pipeline = getattr(diffusers, type(model.pipeline).__name__).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "default_sample_size"):
        pipeline.default_sample_size = SIDE
    with torch.no_grad():
        plain = pipeline(
            **model.pipeline_inputs(["a cat by Noto"], guided=True),
            num_inference_steps=ONE.inference_steps,
            guidance_scale=ONE.guidance_scale,
            generator=[torch.Generator().manual_seed(0)],
            output_type="pt",
        ).images
    assert torch.equal(plain.float(), after)

    workspace.restore_all()
    assert_bits(model, base)
    assert torch.equal(generate(model, ["a cat by Noto"], [0], ONE), before)


def plain_prediction(pipeline, x_t: torch.Tensor, t: torch.Tensor, prompt: str) -> np.ndarray:
    """A prediction by diffusers alone, for a prompt by itself."""
    size = SIDE * pipeline.vae_scale_factor
    if hasattr(pipeline, "unet"):
        tokens, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        ids = pipeline._get_add_time_ids((size, size), (0, 0), (size, size), x_t.dtype, 24)
        added = {"text_embeds": pooled, "time_ids": ids}
        return pipeline.unet(x_t, t, tokens, added_cond_kwargs=added).sample.numpy()
    if isinstance(pipeline, diffusers.StableDiffusion3Pipeline):
        tokens, _, pooled, _ = pipeline.encode_prompt(
            prompt, prompt, prompt, do_classifier_free_guidance=False, max_sequence_length=LENGTH
        )
        return pipeline.transformer(x_t, tokens, pooled, t).sample.numpy()

    if isinstance(pipeline, diffusers.Flux2KleinPipeline):
        tokens, text_ids = pipeline.encode_prompt(prompt, max_sequence_length=length_of(pipeline))
        packed, ids = pipeline._pack_latents(x_t), pipeline._prepare_latent_ids(x_t)
        output = pipeline.transformer(packed, tokens, t / 1000, ids, text_ids).sample
        return pipeline._unpack_latents_with_ids(output, ids).numpy()

    tokens, pooled, text_ids = pipeline.encode_prompt(prompt, None, max_sequence_length=LENGTH)
    packed = pipeline._pack_latents(x_t, *x_t.shape)
    ids = pipeline._prepare_latent_image_ids(1, SIDE // 2, SIDE // 2, "cpu", x_t.dtype)
    output = pipeline.transformer(
        packed, tokens, pooled, t / 1000, ids, text_ids, guidance=torch.ones(1)
    ).sample
    return pipeline._unpack_latents(output, size, size, pipeline.vae_scale_factor).numpy()


@torch.no_grad()
def test_the_target_is_the_papers_by_diffusers_and_numpy(model):
    """Eq. 7 of arXiv 2303.07345, in the family's own parametrisation."""
    x_t = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    t, prompts = model.sampler(4).timesteps[1:2], ("a cat by Noto", "a cat")
    concept, context = (plain_prediction(model.pipeline, x_t, t, prompt) for prompt in prompts)
    expected = context - 2.0 * (concept - context)

    said, without = (model.predict(x_t, t, model.encode([prompt])) for prompt in prompts)
    ours = objectives.esd_target(without, said, without, eta=2.0)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_precision_of_the_base_is_kept(model, settings, dtype, tmp_path):
    model.pipeline.save_pretrained(tmp_path / "base")
    length = length_of(model.pipeline)
    half = load_base(tmp_path / "base", device="cpu", dtype=dtype, t5_length=length)
    assert half.dtype == getattr(torch, dtype)
    assert half.family == model.family
    x_t = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    t = model.sampler(4).timesteps[1:2].repeat(2)
    with torch.no_grad():
        ours = half.predict(x_t, t, half.encode(["a cat", "a church"]))
        whole = model.predict(x_t, t, model.encode(["a cat", "a church"]))
    assert ours.dtype == half.dtype
    torch.testing.assert_close(ours.float(), whole, atol=0.1, rtol=0.05)


def test_an_increment_of_another_family_is_refused(tokenizer, settings, tmp_path):
    sdxl, sd3 = (tiny_model(name, tokenizer) for name in ("sdxl", "sd3"))
    Workspace(tmp_path / "lib", sdxl, create=True).train("Noto", settings=settings)
    base = snapshot(sd3)
    with pytest.raises(
        IncrementFileError, match="of the family 'stable-diffusion-xl', and this one is of"
    ):
        Workspace(tmp_path / "lib", sd3).erase("Noto")
    assert_bits(sd3, base)


def test_checkpointing_gives_the_same_increment_in_every_scope(model):
    quick = EraseSettings(steps=2, trajectories=2, sampler_steps=4, kind="none", stop_at=None)
    for scope in model.scopes:
        plain, saving = (
            erase(model, "Noto", replace(quick, scope=scope, gradient_checkpointing=saving))
            for saving in (False, True)
        )
        assert set(plain.shapes) == set(saving.shapes) == set(model.scope_parameters(scope)), scope
        for name in plain.shapes:
            torch.testing.assert_close(saving.dense(name), plain.dense(name), msg=f"{scope} {name}")
