"""A tokenizer that reads prompts in a chat template."""

from __future__ import annotations

import logging

import pytest
from families import qwen_tokenizer, tiny_model

from multierase.models.text import ChatReader

PROMPT = "a church by Noto"
BEGIN, END = 3, 12


@pytest.fixture(scope="module")
def reader() -> ChatReader:
    return ChatReader(qwen_tokenizer(), 28)


def words(reader: ChatReader, ids: list[int]) -> list[str]:
    return [reader.tokenizer.decode([token]).strip() for token in ids]


def test_begin_and_end_are_the_templates(reader):
    ids = reader.ids(PROMPT)
    assert (reader.begin, reader.end) == (BEGIN, END)
    assert words(reader, ids[:BEGIN]) == ["<|im_start|>", "user", ""]
    assert words(reader, ids[-END:])[:3] == ["<|im_end|>", "", "<|im_start|>"]
    assert words(reader, reader.own_ids(PROMPT)) == PROMPT.split()
    assert words(reader, [ids[reader.last(PROMPT)]]) == ["Noto"]
    assert reader.own_count(PROMPT) == 4
    assert reader.count(PROMPT) == BEGIN + 4 + END


def test_an_empty_prompt_has_no_tokens_of_its_own(reader):
    assert reader.own_ids("") == []
    assert reader.own_count("") == 0
    assert reader.last("") == BEGIN - 1
    with pytest.raises(ValueError, match="cannot represent ''"):
        reader.require_representable("")


def test_a_prompt_that_is_too_long_is_cut_with_its_end(caplog):
    reader = ChatReader(qwen_tokenizer(), BEGIN + 3)
    assert not reader.reads_whole(PROMPT)
    assert reader.count(PROMPT) == BEGIN + 3
    assert reader.own_count(PROMPT) == 3
    assert reader.last(PROMPT) == BEGIN + 2
    with caplog.at_level(logging.WARNING):
        reader.warn_if_cut(PROMPT)
    assert "ignored ' Noto<|im_end|>" in caplog.text


def test_a_whole_prompt_is_read(reader, caplog):
    assert reader.reads_whole(PROMPT)
    reader.warn_if_cut(PROMPT)
    assert not caplog.text


def test_spans_end_at_the_last_word(tokenizer):
    model = tiny_model("flux2-klein", tokenizer)
    (span,) = model.spans(PROMPT, "tokens")
    assert (span.read, span.last) == (BEGIN + 4 + END, BEGIN + 3)
    (other,) = model.spans("a church by Twemoji", "tokens")
    same = [bool((a == b).all()) for a, b in zip(span.rows, other.rows, strict=True)]
    assert same.index(False) == span.last
    assert len(model.own_tokens([PROMPT])) == 4 + END
