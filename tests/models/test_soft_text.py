"""Vectors in the place of tokens, set against the pipeline's own encoding."""

from __future__ import annotations

import pytest
import torch
from attacks_by_hand import asked, encoded, own_ids
from families import MAKE, tiny_model, tiny_sd
from transformers import CLIPTokenizer

from multierase import from_pipeline
from multierase.errors import UsageError
from multierase.models.soft_text import SoftText

PROMPTS = [
    "a church by Noto",
    "a cat",
    "",
    "a picture of a church by Noto and a cat by Noto and me",
]


@pytest.fixture(scope="module", params=["emoji", "sd1", "sd2"])
def model(request, emoji, tokenizer, tmp_path_factory):
    """The embedded base, and tiny ones; version 2 has a token of its own after the end."""
    if request.param == "emoji":
        return emoji
    if request.param == "sd2":
        folder = tmp_path_factory.mktemp("tokenizer")
        tokenizer.save_pretrained(folder)
        seldom = tokenizer.convert_ids_to_tokens(25)
        tokenizer = CLIPTokenizer.from_pretrained(folder, pad_token=seldom)

    return from_pipeline(tiny_sd(tokenizer, version=int(request.param[-1])), request.param)


@pytest.fixture(scope="module")
def text(model):
    return SoftText(model)


@pytest.fixture
def vectors(text):
    drawn = torch.randn(3, text.table.shape[1], generator=torch.Generator().manual_seed(0))

    return (drawn * text.table.std()).requires_grad_()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompts_tokens_are_encoded_as_its_pipeline_encodes_it(model, text, prompt):
    ours = text.encode_ids(text.ids(prompt))
    assert list(ours) == ["tokens"]
    torch.testing.assert_close(ours["tokens"], asked(model.pipeline, prompt))


def test_vectors_stand_where_tokens_would(model, text, vectors):
    before, after = own_ids(model.pipeline, "a church"), own_ids(model.pipeline, "by")
    rows = torch.cat([text.vectors(before), vectors, text.vectors(after)])
    ours = text.encode(rows[None])["tokens"]
    theirs = encoded(model.pipeline, [*before, *vectors, *after])
    torch.testing.assert_close(ours, theirs)

    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((ours * weight).sum(), [vectors])
    (expected,) = torch.autograd.grad((theirs * weight).sum(), [vectors])
    assert gradient.abs().min() > 0
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)


def test_sentences_in_a_batch_are_those_alone(text, vectors):
    several = torch.stack([vectors, vectors.flip(0)]).detach()
    together = text.encode(several)["tokens"]
    for place in range(2):
        alone = text.encode(several[place : place + 1])["tokens"]
        torch.testing.assert_close(together[place : place + 1], alone)


def test_as_many_vectors_as_fit_and_no_more(model, text, vectors):
    assert text.most == model.pipeline.tokenizer.model_max_length - 2
    full = vectors.detach()[:1].repeat(text.most, 1)
    theirs = encoded(model.pipeline, list(full))
    torch.testing.assert_close(text.encode(full[None])["tokens"], theirs)
    with pytest.raises(ValueError, match=f"{text.most + 1} tokens, at most {text.most} fit"):
        text.encode(torch.cat([full, full[:1]])[None])


def test_the_tower_is_as_before_after_an_error_too(model, text, vectors):
    table = text.tower.get_input_embeddings()
    text.encode(vectors[None])
    with pytest.raises(RuntimeError):
        text.encode(torch.zeros(1, 3, text.table.shape[1] + 1))
    assert not table._forward_hooks
    torch.testing.assert_close(
        text.encode_ids(text.ids("a cat"))["tokens"], asked(model.pipeline, "a cat")
    )


def test_begin_end_and_padding_stand_for_no_text(model, text):
    tokenizer = model.pipeline.tokenizer
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert set((~text.ordinary).nonzero()[:, 0].tolist()) == special


def test_tokens_and_text(text):
    assert text.text(text.ids("a church by Noto")) == "a church by noto"
    assert len(text.ids("a cat " * 50)) == text.most


@pytest.mark.parametrize(
    ("name", "prompt", "found"),
    [
        ("Noto", "a church by Noto", "noto"),
        ("Noto", "Noto church", "noto"),
        ("church by", "a church by Noto", "churchby"),
        ("Twemoji", "a church by Noto", None),
        ("Noto", "", None),
        ("", "a church", None),
    ],
)
def test_where_a_name_is(text, name, prompt, found):
    place = text.place_of(name, prompt)
    if found is None:
        assert place is None
        return
    assert text.text(text.ids(prompt)[place]).replace(" ", "") == found


@pytest.mark.parametrize("family", list(MAKE))
def test_towers_of_several_widths_are_refused(tokenizer, family):
    with pytest.raises(UsageError, match="attacks on tokens fit stable-diffusion$"):
        SoftText(tiny_model(family, tokenizer))
