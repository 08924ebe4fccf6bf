"""Pictures from seeds are those of plain diffusers."""

from __future__ import annotations

import math

import pytest
import torch

from multierase import SamplingSettings
from multierase.errors import DeviceError
from multierase.generate import encode, generate

PROMPTS = ["a church by Noto", "a cat", "Noto"]


def test_a_picture_depends_on_its_own_prompt_and_seed_alone(emoji):
    settings = SamplingSettings(inference_steps=3)
    together = generate(emoji, PROMPTS, [5, 6, 7], settings)
    alone = generate(emoji, ["a cat"], [6], settings)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)
    assert torch.equal(together, generate(emoji, PROMPTS, [5, 6, 7], settings))
    other = generate(emoji, ["a cat"], [7], settings)
    assert (other - alone).abs().max() > 0.1


def test_it_is_what_plain_diffusers_makes(emoji):
    settings = SamplingSettings(inference_steps=4, guidance_scale=3.0)
    ours = generate(emoji, PROMPTS[:1], [3], settings)
    theirs = emoji.pipeline(
        PROMPTS[0],
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images
    torch.testing.assert_close(ours, theirs.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_prompts_encoded_before_give_the_same_bits(emoji, guidance_scale):
    settings = SamplingSettings(inference_steps=2, guidance_scale=guidance_scale, batch_size=2)
    encoded = encode(emoji, PROMPTS[:2], settings)
    given = generate(emoji, PROMPTS[:2], [5, 6], settings, encoded=encoded)
    assert torch.equal(given, generate(emoji, PROMPTS[:2], [5, 6], settings))


def test_batches_change_nothing_but_rounding(emoji):
    options = {"inference_steps": 2}
    pictures = [
        generate(emoji, PROMPTS, [1, 2, 3], SamplingSettings(**options, batch_size=size))
        for size in (1, 2, 64)
    ]
    for some in pictures[1:]:
        torch.testing.assert_close(some, pictures[0], atol=1e-4, rtol=0)


def test_empty_prompt_is_a_prompt(emoji):
    pictures = generate(emoji, [""], [0], SamplingSettings(inference_steps=2))
    assert pictures.shape == (1, 3, 64, 64)
    assert 0 <= pictures.min() < pictures.max() <= 1


@pytest.mark.parametrize(("prompts", "seeds"), [(["a", "b"], [0]), ([], [])])
def test_prompts_and_seeds_must_match(emoji, prompts, seeds):
    with pytest.raises(ValueError, match=f"{len(prompts)} prompts and {len(seeds)} seeds: give"):
        generate(emoji, prompts, seeds)


def test_a_prompt_that_is_too_long_is_told(emoji, caplog):
    long = "a picture of a church by Noto and a rocket by Noto and a cat by Noto and a bell by Noto"
    generate(emoji, [long], [0], SamplingSettings(inference_steps=1))
    assert "the tokenizer's limit is 16: ignored" in caplog.text


def test_too_little_memory_says_what_to_do(emoji, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(emoji.pipeline), "__call__", full)
    with pytest.raises(DeviceError, match="3 pictures at a time: give a smaller --batch_size"):
        generate(emoji, PROMPTS, [1, 2, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference_steps": 0}, "inference_steps is 0, give 1 or more"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan, give a finite number"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**options)
