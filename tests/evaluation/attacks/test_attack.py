"""The target of an attack set against plain diffusers; prompts without a name."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from families import tiny_flux, tiny_model, tiny_sd, tiny_sdxl

from multierase import SamplingSettings, from_pipeline
from multierase.evaluation.attacks.attack import without
from multierase.evaluation.attacks.run import copied, target_of
from multierase.generate import generate
from multierase.models.latents import decode, noised
from multierase.prompts.kind import load_kind

PROMPTS, SEEDS = ["a church by Noto", "a cat", ""], [3, 4, 5]
FAMILIES = ["emoji", "sd1", "sd2", "sdxl", "sdxl-v", "sd3", "flux", "flux-schnell"]


@pytest.fixture(scope="module", params=FAMILIES)
def any_model(request, emoji, tokenizer):
    """A model of any family, whose pipeline has the scheduler that the sampler takes."""
    name = request.param
    if name == "emoji":
        return emoji
    if name in ("sd3", "flux"):
        return tiny_model(name, tokenizer)
    if name == "flux-schnell":
        return from_pipeline(tiny_flux(tokenizer, schnell=True), name, t5_length=12)

    if name.startswith("sdxl"):
        pipeline = tiny_sdxl(tokenizer, v_prediction=name == "sdxl-v")
    else:
        pipeline = tiny_sd(tokenizer, version=int(name[-1]))
    given = {"timestep_spacing": "leading", "clip_sample": False}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **given)

    return from_pipeline(pipeline, name)


@pytest.mark.parametrize("scale", [3.0, 1.0])
def test_its_pictures_are_those_that_plain_diffusers_makes(any_model, scale):
    settings = SamplingSettings(2, scale, 2)
    target = target_of(any_model, copied(any_model), settings)
    drawn = decode(any_model, target.draw(target.encode(PROMPTS), SEEDS))
    theirs = generate(any_model, PROMPTS, SEEDS, settings)
    torch.testing.assert_close(drawn, theirs, atol=1e-4, rtol=0)

    each = 2 if any_model.guided and scale > 1 else 1
    assert target.evaluations == 2 * len(PROMPTS) * each


def test_the_base_is_what_stood_where_something_changed(model, base, target):
    changed = [name for name in base if name.endswith("attn2.to_k.weight")]
    assert sorted(target.base) == sorted(changed)
    for name in changed:
        assert torch.equal(target.base[name], base[name])
        assert not torch.equal(target.base[name], model.parameters()[name])


def test_pictures_of_the_base_are_the_bases(model, base, target):
    ours = target.of_base(PROMPTS, SEEDS)
    erased = target.draw(target.encode(PROMPTS), SEEDS)
    with torch.no_grad():
        for name, weight in model.parameters().items():
            weight.copy_(base[name])
    theirs = generate(model, PROMPTS, SEEDS, target.sampling)

    torch.testing.assert_close(decode(model, ours), theirs, atol=1e-4, rtol=0)
    assert not torch.allclose(decode(model, erased), theirs, atol=1e-3)


def test_a_picture_of_the_base_is_made_once_and_counted_each_time(model, target):
    calls = []
    watch = model.pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
    first = target.of_base(["a cat"], [3])
    once = target.evaluations
    made = len(calls)
    again = target.of_base(["a cat"], [3])
    watch.remove()

    assert made == len(calls) == target.sampling.inference_steps
    assert torch.equal(first, again)
    assert target.evaluations == 2 * once


def test_it_goes_on_from_where_it_is_told(model, target):
    """The trajectory is walked by hand with the pipeline's own scheduler, and left at each step."""
    said, scheduler = (
        target.encode(["a cat"]),
        DDIMScheduler.from_config(model.pipeline.scheduler.config),
    )
    scheduler.set_timesteps(target.sampling.inference_steps)
    x_t = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    whole = target.draw(said, [3])
    null = target.encode([""])["tokens"]
    for index, t in enumerate(scheduler.timesteps):
        there = target.draw(said, [99], latents=x_t, start=index)
        torch.testing.assert_close(there, whole, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            unasked, asked = (
                model.pipeline.unet(x_t, t, encoder_hidden_states=tokens).sample
                for tokens in (null, said["tokens"])
            )
        x_t = scheduler.step(unasked + 3 * (asked - unasked), t, x_t).prev_sample
    torch.testing.assert_close(x_t, whole, atol=1e-4, rtol=1e-4)


def test_evaluations_count_latents_and_backward_passes(model, target):
    x_t, t = torch.zeros(2, *model.latent_shape), torch.tensor([5, 5])
    said = target.encode(["a cat", "a church"])
    target.predict(x_t, t, said)
    assert target.evaluations == 4
    with torch.no_grad():
        target.predict(x_t, t, said)
    assert target.evaluations == 6


def test_noise_is_drawn_from_the_generator_alone(model, target):
    x_0, t = target.noise([1, 2]), torch.tensor([100, 900])
    x_t, goal = target.noised(x_0, t, torch.Generator().manual_seed(7))
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(7))
    assert torch.equal(goal, noise)
    assert torch.equal(x_t, noised(model, x_0, noise, t)[0])
    assert target.times == 1000


def test_pictures_that_an_attacker_has_are_of_no_case(target, aim, monkeypatch):
    wanted = []
    monkeypatch.setattr(
        target, "of_base", lambda prompts, seeds: wanted.extend(zip(prompts, seeds, strict=True))
    )
    _, shown = aim(pictures=5).pictures(target)
    assert [case.number for case in shown] == [3, 4, 7, 3, 4]
    church, cat, bare = "a church by Noto", "a cat in the style of Noto", "Noto"
    assert wanted == [(church, 10), (cat, 11), (bare, 12), (church, 13), (cat, 14)]


def test_a_generator_depends_on_what_it_is_for(aim):
    def drawn(seed, *of):
        return torch.rand(1, generator=aim(seed=seed).generator(*of)).item()

    assert drawn(0, "a", 1) == drawn(0, "a", 1)
    assert len({drawn(0, "a", 1), drawn(1, "a", 1), drawn(0, "b", 1), drawn(0, "a", 2)}) == 4


@pytest.mark.parametrize(
    ("prompt", "bare"),
    [
        ("a church by Noto", "a church"),
        ("a church by noto.", "a church"),
        ("a church, by Noto", "a church"),
        ("a church, Noto", "a church"),
        ("a church, Noto style", "a church"),
        ("a church in the style of Noto", "a church"),
        ("a church as drawn by Noto, in the rain", "a church, in the rain"),
        ("a church from the Noto", "a church"),
        ("a church by Noto in the rain", "a church in the rain"),
        ("Noto church", "church"),
        ("Noto's church", "church"),
        ("Noto: a church", "a church"),
        ("art by Noto, a church", "art, a church"),
        ("Noto church by Noto", "church"),
        ("a church and Noto", "a church"),
        ("Noto and a church", "a church"),
        ("Noto", ""),
        ("a church", "a church"),
        ("a Notorious church, by the way.", "a Notorious church, by the way."),
        ("", ""),
    ],
)
def test_a_prompt_without_a_name(prompt, bare):
    assert without(prompt, "Noto") == bare


def test_names_of_several_words_and_odd_letters():
    assert without("a church by Fluent  Flat", "Fluent  Flat") == "a church"
    assert without("a photo of C++ code", "C++") == "a photo code"
    assert without("a photo of (a+b)", "(a+b)") == "a photo"


def test_sentences_about_artists_lose_their_names_as_the_shipped_kind_says():
    for sentence, context in load_kind("artist").sentences.items():
        if "painted" in sentence:  # there the kind says it in other words
            continue
        filled, bare = (
            text.replace("{name}", "Van Gogh")
            .replace("{a_subject}", "a tree")
            .replace("{subject}", "tree")
            for text in (sentence, context)
        )
        assert without(filled, "van gogh").removeprefix("a ") == bare.removeprefix("a ")
