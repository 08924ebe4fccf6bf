"""Stable Diffusion 1 and 2, tiny, and the embedded base."""

from __future__ import annotations

import pytest
from contract import ModelContract

from multierase import load_base


class TestStableDiffusion(ModelContract):
    """Both versions: the second predicts ``v``, and has linear projections."""

    @pytest.fixture
    def model(self, sd_folder):
        return load_base(sd_folder, device="cpu")

    def test_it_is_the_version_that_the_folder_says(self, model, sd_folder):
        kind = model.pipeline.scheduler.config.prediction_type
        assert kind == ("v_prediction" if "sd2" in sd_folder.name else "epsilon")


class TestEmoji(ModelContract):
    """The embedded base, for all tests: each leaves it as it was."""

    @pytest.fixture
    def model(self, emoji):
        return emoji


def test_long_prompts_are_cut_with_a_warning(emoji, caplog):
    long = "a picture of a church by Noto and a rocket by Noto and a cat by Noto and a bell by Noto"
    assert emoji.encode([long])["tokens"].shape == (1, 16, 256)
    assert "the tokenizer's limit is 16: ignored" in caplog.text
    assert "bell" in caplog.text


@pytest.mark.parametrize("prompt", ["ピカチュウ", "a ☃", " "])
def test_what_the_tokenizer_cannot_represent(emoji, prompt):
    with pytest.raises(ValueError, match="tokenizer cannot represent"):
        emoji.require_representable(prompt)
    emoji.require_representable("Noto")
