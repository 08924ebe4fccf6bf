"""Words of a tokenizer: which tokens are whole words, and what is read whole."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerFast

from multierase.errors import ConceptRefused
from multierase.models.text import PromptReader, Text, whole_word_of

LONGEST = 16  # tokens that the embedded base's tokenizer allows, begin and end included


class Embedding(nn.Module):
    """As much of a text tower as is looked at for its words."""

    def __init__(self, tokens: int):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.eye(tokens))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table


def encoder_of(tokens: list[str], embedded: int | None = None) -> Text:
    """A WordPiece tokenizer of these tokens beside its special ones, all as far apart."""
    vocabulary = {token: place for place, token in enumerate(["[UNK]", "[CLS]", "[SEP]", *tokens])}
    whole = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    whole.pre_tokenizer = Whitespace()
    whole.post_processor = TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, unk_token="[UNK]", model_max_length=LONGEST
    )

    return Text([PromptReader(tokenizer)], Embedding(embedded or len(vocabulary)), dict, {})


def token_count(encoder: Text, text: str) -> int:
    return len(encoder.readers[0].tokenizer.tokenize(text))


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        # CLIP marks the word's end.
        (["cat</w>", "cat", "do", "og</w>", "dog</w>", "Noto</w>"], ["cat", "dog", "Noto"]),
        # SentencePiece and byte-level BPE mark its beginning.
        (["▁cat", "cat", "▁do", "▁dog", "s", "▁Noto"], ["cat", "dog", "Noto"]),
        (["Ġcat", "cat", "Ġdo", "Ġdog", "s", "ĠNoto"], ["cat", "dog", "Noto"]),
        # Two bytes are one letter there; a piece of a letter is none.
        (["Ġcat", "ĠÐ½Ð¾Ñĩ", "ĠÑģÑĤÐ", "ĠÃ©tÃ©"], ["cat", "ноч", "été"]),
        # WordPiece marks all the other pieces.
        (["cat", "##cat", "do", "dog", "##s", "Noto", "[CLS]"], ["cat", "dog", "Noto"]),
    ],
    ids=["clip", "sentencepiece", "bytes", "scripts", "wordpiece"],
)
def test_whole_words_by_each_way_to_mark_them(vocabulary, words):
    whole = whole_word_of(vocabulary)
    assert [whole(token) for token in vocabulary if whole(token)] == words


@pytest.mark.parametrize("mark", ["{}</w>", "▁{}", "Ġ{}", "{}"])
def test_what_is_no_word(mark):
    scraps = ["", "it", "3d", "1998", "!!!", "...", "cat!", "<|endoftext|>"]
    vocabulary = [mark.format(scrap) for scrap in [*scraps, "cats"]]
    whole = whole_word_of([*vocabulary, "##x"])
    assert [whole(token) for token in vocabulary] == [None] * len(scraps) + ["cats"]


def test_words_are_in_the_tokenizers_own_order(emoji, tmp_path):
    """A learned vocabulary is by frequency, so the base's own names of studios come early."""
    emoji.pipeline.tokenizer.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    ends = "</w>"
    expected = [
        token.removesuffix(ends)
        for token in sorted(stored, key=stored.get)
        if token.endswith(ends) and len(token) >= 3 + len(ends) and token.isascii()
    ]
    words = emoji.words()
    assert words == expected
    assert words.index("noto") < words.index("church") < words.index("sunflower")


def test_a_word_in_two_cases_is_one_at_its_first_place():
    assert encoder_of(["Dog", "cat", "dog", "Cat", "owl"]).words == ["dog", "cat", "owl"]


def test_a_token_that_was_never_trained_is_no_word(tiny):
    """What fine-tuners leave of an unused token is the mean embedding, or near it."""
    before = tiny.words()
    assert {"noto", "church", "cow"} <= set(before)

    table = tiny.pipeline.text_encoder.get_input_embeddings().weight
    unused = tiny.pipeline.tokenizer.convert_tokens_to_ids(["church</w>", "cow</w>"])
    table[unused[0]] = table.mean(0)
    table[unused[1]] = table.mean(0) + 0.3 * (table[unused[1]] - table.mean(0))
    again = Text(tiny.text.readers, tiny.pipeline.text_encoder, dict, {})
    assert again.words == [word for word in before if word not in ("church", "cow")]


def test_a_token_without_an_embedding_is_no_word():
    tokens = ["cat", "dog", "owl"]
    assert encoder_of(tokens).words == tokens
    assert encoder_of(tokens, embedded=5).words == ["cat", "dog"]


# What is read whole.


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [
        ("a church by Noto", True),
        ("", True),
        ("cow " * (LONGEST - 2), True),
        ("cow " * (LONGEST - 1), False),  # the last is cut off
        ("☃", False),  # no token
        ("a church by ☃ and Noto", False),
    ],
)
def test_what_is_read_whole(emoji, caplog, prompt, whole):
    assert emoji.reads_whole(prompt) is whole
    assert caplog.text == ""  # it is only asked
    if "☃" not in prompt:
        emoji.warn_if_cut([prompt])
        assert ("ignored" in caplog.text) is not whole


def test_an_unknown_word_of_another_tokenizer_is_not_read_whole():
    encoder = encoder_of(["cat", "##s"])
    assert encoder.reads_whole("cats cat")
    assert not encoder.reads_whole("cat dog")


def test_a_tokenizer_that_reads_as_one_before_is_not_asked(tiny, monkeypatch):
    """As the second CLIP of Stable Diffusion XL and 3; one that reads less is asked."""
    first = tiny.text.readers[0]
    again = PromptReader(copy.deepcopy(first.tokenizer))
    shorter = PromptReader(first.tokenizer, 4)
    assert first.reads_as(again)
    assert not first.reads_as(shorter)

    tower = tiny.pipeline.text_encoder
    assert not Text([first, shorter], tower, dict, {}).reads_whole("a church by Noto")
    monkeypatch.setattr(again, "ids", pytest.fail)
    assert Text([first, again], tower, dict, {}).reads_whole("a church by Noto")


# Names that are made up.


@pytest.mark.parametrize("count", range(1, 9))
def test_a_made_up_name_has_the_number_of_tokens_that_is_asked_for(emoji, count):
    generator = random.Random(0)
    names = [emoji.name_of_tokens(count, generator) for _ in range(5)]
    assert [emoji.token_count(name) - 2 for name in names] == [count] * 5
    assert all(name.isalpha() and emoji.reads_whole(name) for name in names)
    assert len(set(names)) == 5
    assert names[0] == emoji.name_of_tokens(count, random.Random(0))
    assert names[0] != emoji.name_of_tokens(count, random.Random(1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_words_that_mean_something_are_in_no_made_up_name(emoji, count):
    """But in one where there are no others: a name there has to be."""
    generator, plainly = random.Random(0), random.Random(0)
    names = [emoji.name_of_tokens(count, generator) for _ in range(40)]
    used = {word for word in emoji.words() if any(word in name for name in names)}
    without = {word for word in used if word in set(sorted(used)[::2])}
    found = [emoji.name_of_tokens(count, plainly, without) for _ in range(40)]
    assert not set(found) & without
    assert found != names

    every = emoji.name_of_tokens(count, random.Random(0), set(emoji.words()))
    assert emoji.token_count(every) - 2 == count


def test_a_name_of_more_tokens_than_can_be_is_the_nearest():
    """WordPiece reads a hundred letters of a word and no more, then knows none of it."""
    encoder = encoder_of(["abc", "##abc"])
    assert token_count(encoder, "abc" * 33) == 33
    assert token_count(encoder, "abc" * 34) == 1
    assert encoder.name_of_tokens(50, random.Random(0)) == "abc" * 33
    assert token_count(encoder, encoder.name_of_tokens(20, random.Random(0))) == 20


def test_a_tokenizer_without_whole_words_makes_up_no_names():
    encoder = encoder_of(["ab", "##c"])
    assert encoder.words == []
    with pytest.raises(ConceptRefused, match="no whole words .* give its --prompts"):
        encoder.name_of_tokens(2, random.Random(0))


def test_a_copy_of_the_tokenizer_with_another_limit_reads_less(tiny):
    (reader,) = tiny.text.readers
    reader.tokenizer = copy.deepcopy(reader.tokenizer)  # the fixture's is shared
    assert tiny.reads_whole("a church by Noto")
    reader.tokenizer.model_max_length = 5
    assert tiny.reads_whole("a church by") is True
    assert tiny.reads_whole("a church by Noto") is False
