"""Text towers and VAE leave the device while they do not compute."""

from __future__ import annotations

import pytest
import torch
from families import MAKE, tiny_model
from torch import nn

from multierase import EraseSettings, Model, SamplingSettings, erase, load_base
from multierase.generate import generate
from multierase.models.offload import offload

QUICK = EraseSettings(steps=2, trajectories=2, sampler_steps=4, kind="none", stop_at=None)
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def pictures(model: Model) -> list:
    return generate(model, ["a cat by Noto"], [0], SamplingSettings(inference_steps=2)).tolist()


def others(model: Model) -> list[nn.Module]:
    denoisers = list(model.components.values())
    parts = [part for part in model.pipeline.components.values() if isinstance(part, nn.Module)]

    return [part for part in parts if not any(part is one for one in denoisers)]


def devices(modules: list[nn.Module]) -> set[str]:
    return {parameter.device.type for module in modules for parameter in module.parameters()}


@pytest.mark.parametrize("family", MAKE)
def test_an_offloaded_model_does_all_that_it_does_otherwise(tokenizer, family):
    plain, away = tiny_model(family, tokenizer), tiny_model(family, tokenizer)
    offload(away, torch.device("cpu"))
    assert pictures(away) == pictures(plain)
    ours, theirs = erase(away, "Noto", QUICK), erase(plain, "Noto", QUICK)
    assert all(torch.equal(ours.dense(name), theirs.dense(name)) for name in theirs.deltas)


def test_a_base_is_loaded_offloaded(sd_folder):
    plain, away = (load_base(sd_folder, device="cpu", offload=one) for one in (False, True))
    assert pictures(away) == pictures(plain)
    assert all(hasattr(part, "_hf_hook") for part in others(away))
    assert not any(hasattr(part, "_hf_hook") for part in others(plain))


@needs_a_gpu
@pytest.mark.parametrize("family", MAKE)
def test_only_the_denoiser_stays_on_the_device(tokenizer, family):
    model, device = tiny_model(family, tokenizer), torch.device("cuda")
    offload(model, device)
    assert (model.device.type, devices(others(model))) == ("cuda", {"cpu"})

    text = model.encode(["a cat"])
    assert {rows.device.type for rows in text.streams.values()} == {"cuda"}
    assert "cuda" in devices(others(model))
    x_t = torch.randn(1, *model.latent_shape, device=device)
    with torch.no_grad():
        model.predict(x_t, model.sampler(4).timesteps[:1], text)
    assert devices(others(model)) == {"cpu"}

    increment = erase(model, "Noto", QUICK)
    assert devices(others(model)) == {"cpu"}
    assert any(increment.dense(name).abs().max() > 0 for name in increment.deltas)


@needs_a_gpu
@pytest.mark.parametrize("family", MAKE)
def test_pictures_are_the_same(tokenizer, family):
    plain, away = tiny_model(family, tokenizer), tiny_model(family, tokenizer)
    plain.pipeline.to("cuda")
    offload(away, torch.device("cuda"))
    assert pictures(away) == pictures(plain)
