"""Pictures and latents of another size than the base's own, in every family."""

from __future__ import annotations

import pytest
import torch
from families import MAKE, SIDE, length_of

from multierase import EraseSettings, Model, SamplingSettings, erase, from_pipeline, load_base
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.generate import generate
from multierase.workspace import Workspace

PIXELS = 96  # 12 latents on a side
TWO = SamplingSettings(inference_steps=2)


def resized(name: str, tokenizer, resolution: int | None) -> Model:
    pipeline = MAKE[name](tokenizer)

    return from_pipeline(pipeline, "tiny", t5_length=length_of(pipeline), resolution=resolution)


@pytest.fixture(params=list(MAKE))
def model(request, tokenizer) -> Model:
    return resized(request.param, tokenizer, PIXELS)


@pytest.mark.parametrize("name", list(MAKE))
def test_by_default_it_is_the_bases_own(name, tokenizer):
    model = resized(name, tokenizer, None)
    side = SIDE * model.pipeline.vae_scale_factor
    assert model.latent_shape[1:] == (side // model.scale, side // model.scale)
    assert generate(model, ["a cat"], [0], TWO).shape == (1, 3, side, side)
    same = resized(name, tokenizer, side)
    assert torch.equal(generate(same, ["a cat"], [0], TWO), generate(model, ["a cat"], [0], TWO))


def test_pictures_are_those_of_plain_diffusers(model):
    ours = generate(model, ["a cat"], [0], TWO)
    theirs = model.pipeline(
        **model.pipeline_inputs(["a cat"], guided=True),
        height=PIXELS,
        width=PIXELS,
        num_inference_steps=TWO.inference_steps,
        guidance_scale=TWO.guidance_scale,
        generator=[torch.Generator().manual_seed(0)],
        output_type="pt",
    ).images
    assert ours.shape == (1, 3, PIXELS, PIXELS)
    assert torch.equal(ours, theirs)


def test_the_sampler_is_of_as_many_tokens(model):
    """FLUX's schedule depends on the size of the picture."""
    generate(model, ["a cat"], [0], TWO)
    if model.family != "stable-diffusion-xl":
        scheduler = model.pipeline.scheduler
        assert model.sampler(TWO.inference_steps).timesteps.tolist() == scheduler.timesteps.tolist()


def test_training_is_at_that_size(model, monkeypatch):
    seen, predict = set(), model.predict

    def recorded(x_t, *args, **kwargs):
        seen.add(tuple(x_t.shape[1:]))
        return predict(x_t, *args, **kwargs)

    monkeypatch.setattr(model, "predict", recorded)
    settings = EraseSettings(
        steps=2, trajectories=2, batch_size=2, sampler_steps=2, kind="none", stop_at=None
    )
    increment = erase(model, "Noto", settings)
    assert increment.provenance.settings["resolution"] == PIXELS
    side = PIXELS // model.scale
    assert seen == {(model.latent_shape[0], side, side)}


@pytest.mark.parametrize(
    ("name", "resolution", "message"),
    [
        ("sdxl", 100, "a multiple of 8$"),
        ("sdxl", 0, "a multiple of 8$"),
        ("flux", 72, "a multiple of 16$"),
        ("flux", -64, "a multiple of 16$"),
        ("sd3", 72, "a multiple of 16, 256 at most"),
        ("sd3", 272, "a multiple of 16, 256 at most"),
    ],
)
def test_a_resolution_that_cannot_be(name, resolution, message, tokenizer):
    told = f"tiny makes no pictures of {resolution} pixels on a side: give {message}"
    with pytest.raises(ValueError, match=told):
        resized(name, tokenizer, resolution)


def test_every_way_to_a_model_takes_it():
    experiment = Experiment("studios", method="negative-prompt", device="cpu", resolution=32)
    for model in (
        load_base(device="cpu", resolution=32),
        Workspace(device="cpu", resolution=32).model,
        Evaluator(experiment).model,
    ):
        assert model.latent_shape[1:] == (4, 4)
