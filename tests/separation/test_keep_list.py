"""Keep-lists: what they sum, and the cache of the last one."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from multierase import KeepList, TaggedPrompt
from multierase.files import digest_tensors
from multierase.separation import keep_list
from multierase.separation.directions import gram

PROMPTS = [
    TaggedPrompt("a dog"),
    TaggedPrompt("a church by Dali", frozenset({"dali"})),
    TaggedPrompt("a cat by Monet", frozenset({"monet", "cat"})),
]


def same(one, other):
    assert one.grams.keys() == other.grams.keys()
    for stream, grams in one.grams.items():
        assert grams.keys() == other.grams[stream].keys()
        assert all(torch.equal(grams[tags], other.grams[stream][tags]) for tags in grams)


@pytest.mark.parametrize(
    ("erased", "listed"),
    [
        ([], ["", "a dog", "a church by Dali", "a cat by Monet"]),
        (["Dali"], ["", "a dog", "a cat by Monet"]),
        (["dali", "MONET"], ["", "a dog"]),
        (["cat"], ["", "a dog", "a church by Dali", "a cat by Monet"]),  # no concept of the library
    ],
)
def test_it_keeps_what_is_about_none_of_the_erased(tiny, erased, listed):
    keep = KeepList.of(tiny, PROMPTS, ["Dali", "Monet"])
    torch.testing.assert_close(keep.gram("tokens", erased), gram(tiny.tokens(listed)))


def test_its_sum_does_not_depend_on_the_order_it_was_read_in():
    chance = torch.Generator().manual_seed(0)
    grams = {
        frozenset(name): gram(10.0**place * torch.randn(9, 16, generator=chance))
        for place, name in enumerate("abcd")
    }
    backwards = KeepList({"tokens": dict(reversed(grams.items()))}, 4)
    assert torch.equal(
        KeepList({"tokens": grams}, 4).gram("tokens", ["A"]), backwards.gram("tokens", ["a"])
    )


@pytest.fixture
def cached(tiny, tmp_path, monkeypatch):
    """Return a keep-list of the cache, and whether it was made anew."""
    whole = KeepList.of.__func__
    made = []

    def counted(cls, *args):
        made.append(1)
        return whole(cls, *args)

    monkeypatch.setattr(KeepList, "of", classmethod(counted))

    def cached(prompts=PROMPTS, concepts=("Dali", "Monet")):
        made.clear()
        return KeepList.cached(tmp_path, tiny, prompts, concepts), bool(made)

    return cached


def test_a_cached_one_gives_the_same_bits(cached):
    first, made = cached()
    assert made
    again, made = cached()
    assert not made
    same(first, again)
    assert cached(concepts=("Monet", "Dali"))[1] is False  # their order is nothing


def test_another_list_concept_or_text_encoder_is_made_anew(cached, tiny):
    cached()
    assert cached(prompts=PROMPTS[:2])[1]
    assert cached(concepts=("Dali",))[1]
    cached()
    tiny.pipeline.text_encoder.get_input_embeddings().weight.mul_(1.1)
    tiny.text._cache.clear()
    assert cached()[1]


def rewritten(path, change):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def no_safetensors(path):
    path.write_bytes(b"\x80\x04.")


def other_numbers(path):
    rewritten(path, lambda tensors, _: next(iter(tensors.values())).add_(1))


def of_another_shape(path):
    def change(tensors, metadata):
        tensors.update({name: matrix[:3, :3].clone() for name, matrix in tensors.items()})
        metadata["sha256"] = digest_tensors(tensors)

    rewritten(path, change)


def without_a_stream(path):
    def change(tensors, metadata):
        tensors.clear()
        tensors["other []"] = torch.eye(3)
        metadata["sha256"] = digest_tensors(tensors)

    rewritten(path, change)


def infinite(path):
    def change(tensors, metadata):
        next(iter(tensors.values()))[0, 0] = torch.inf
        metadata["sha256"] = digest_tensors(tensors)

    rewritten(path, change)


DAMAGES = [cut, no_safetensors, other_numbers, of_another_shape, without_a_stream, infinite]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_anew(cached, tmp_path, damage):
    first, _ = cached()
    damage(tmp_path / keep_list.CACHE)
    again, made = cached()
    assert made
    same(first, again)
    assert cached()[1] is False


def test_a_cache_that_cannot_be_written_is_no_error(cached, tmp_path, caplog):
    (tmp_path / keep_list.CACHE).mkdir()
    keep, made = cached()
    assert made
    assert keep.gram("tokens", []).shape == (32, 32)
    assert "the keep-list could not be cached" in caplog.text
