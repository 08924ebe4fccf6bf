"""The scripts that build the base ``type``: captions, pairs held out, sources, counted rows."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import SD3Transformer2DModel

FOLDER = Path(__file__).parents[1] / "scripts" / "build_type"


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Import the scripts as they import each other, and forget them after."""
    if not FOLDER.is_dir():
        pytest.skip("the scripts are not part of an installed package")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def tiny_transformer() -> SD3Transformer2DModel:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=20,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )


def test_one_counted_row_does_for_many_rows_of_zeros(script):
    many = 37
    transformer = tiny_transformer().eval()
    # Untrained, the output is the same whatever the text is.
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    inputs = {
        "hidden_states": torch.randn(2, 16, 8, 8),
        "timestep": torch.tensor([100.0, 900.0]),
        "pooled_projections": torch.randn(2, 20),
    }
    text, zeros = torch.randn(2, 5, 24), torch.zeros(2, many, 24)

    with torch.no_grad():
        rows = torch.cat([text, zeros], dim=1)
        expected = transformer(**inputs, encoder_hidden_states=rows).sample
        counted = script("counted").count_last_row(transformer)
        one_row = torch.cat([text, zeros[:, :1]], dim=1)
        uncounted = transformer(**inputs, encoder_hidden_states=one_row).sample
        counted.bias = torch.tensor(math.log(many))
        found = transformer(**inputs, encoder_hidden_states=one_row).sample

    assert not torch.allclose(uncounted, expected, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_captions_name_what_they_are_about(script):
    captions, glyphs = script("captions"), script("glyphs").GLYPHS
    typefaces = ["Lobster", "Press Start 2P"]
    every = captions.every_caption(typefaces)

    assert len(set(every.texts)) == len(every.texts)
    assert every.texts[0] == ""
    assert len(glyphs) == len(set(glyphs)) == 36
    for text, (typeface, glyph) in zip(every.texts, every.about.tolist(), strict=True):
        named = [name in text for name in typefaces]
        assert named == [place == typeface for place in range(len(typefaces))], text
        if glyph >= 0:
            assert glyphs[glyph] in text.split() or f"{glyphs[glyph]}," in text.split()


def test_a_drawn_caption_is_true_of_its_picture(script):
    captions = script("captions")
    every = captions.every_caption(["Lobster", "Pacifico", "Rye"])
    generator = torch.Generator().manual_seed(0)
    typeface = torch.randint(3, (2000,), generator=generator)
    glyph = torch.randint(36, (2000,), generator=generator)

    about = every.about[captions.draw(every, typeface, glyph, 0.1, generator)]
    for place, truth in enumerate((typeface, glyph)):
        named = about[:, place]
        assert ((named == truth) | (named == -1)).all()
    none = (about == -1).all(dim=1).float().mean().item()
    both = (about >= 0).all(dim=1).float().mean().item()
    assert none == pytest.approx(0.1, abs=0.03)
    assert both == pytest.approx(0.9 * captions.SHARES["both"], abs=0.04)


def test_every_second_typeface_holds_one_pair_out_and_glyphs_take_turns(script):
    glyphs = script("glyphs")
    renders = glyphs.Renders(torch.zeros(120, 36, 1, 1, 1), [str(place) for place in range(120)])
    held_out = renders.held_out()

    assert held_out.sum(dim=1).tolist() == [1, 0] * 60
    assert set(held_out.sum(dim=0).tolist()) <= {1, 2}


def test_the_chosen_typefaces_are_pinned(script):
    sources, choose = script("sources"), script("choose")
    pinned = {source.name: source for source in sources.load_sources()}
    chosen = json.loads((FOLDER / "chosen.json").read_text())

    assert len(chosen) == len(set(chosen)) >= 120
    assert set(chosen) <= set(pinned)
    assert not set(chosen) & set(choose.ILLEGIBLE)
    for family in choose.SIBLINGS:
        assert set(family) <= set(chosen)
    for source in pinned.values():
        assert len(source.sha256) == 64
        assert source.copyright


def test_typefaces_that_are_far_apart_are_chosen(script):
    # Places on a line: 0 is given, then the farthest, then the middle of the widest gap.
    places = torch.tensor([0.0, 1.0, 1.1, 5.0, 9.9, 10.0])
    apart = (places[:, None] - places[None]).abs()

    assert script("choose").farthest_first(apart, [0], 4) == [0, 5, 3, 2]


def test_words_are_put_into_captions_and_nothing_is_lost(script, tmp_path):
    text = script("train_text")
    every = script("captions").every_caption(["Lobster", "Press Start 2P"])
    tokenizer = text.tokenizer_of(every, tmp_path)
    tokens = text.tokens_of(tokenizer, every.texts)
    disturb = text.Disturbance(tokenizer)

    found = disturb(tokens, torch.Generator().manual_seed(0))
    again = disturb(tokens, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    changed = (found != tokens).any(dim=1).float().mean().item()
    assert 0.3 < changed < 0.6
    for before, after in zip(tokens.tolist(), found.tolist(), strict=True):
        assert after[0] == tokenizer.bos_token_id
        assert after[-1] == tokenizer.eos_token_id
        rest = iter(after)
        words = before[: before.index(tokenizer.eos_token_id) + 1]
        assert all(token in rest for token in words)
