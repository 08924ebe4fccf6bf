"""Digests, JSON, and text that a terminal does not obey."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch

from multierase.files import (
    digest_bytes,
    digest_file,
    digest_tensors,
    plain,
    write_json,
)


def test_json_is_written_so_that_it_can_be_read(tmp_path):
    write_json(tmp_path / "x.json", {"name": "Dalí", "numbers": [1, 2.5, None]})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {
        "name": "Dalí",
        "numbers": [1, 2.5, None],
    }


def test_digests_are_sha256(tmp_path):
    whole = hashlib.sha256("añb".encode()).hexdigest()
    assert digest_bytes("a", "ñ".encode(), "b") == whole
    assert digest_bytes("añb", length=16) == whole[:16]

    path = tmp_path / "big"
    path.write_bytes(os.urandom(3 * 2**20 + 1))
    assert digest_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest_file(path, length=8) == digest_file(path)[:8]


def test_a_digest_of_tensors_is_over_all_that_they_are():
    base = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    expected = hashlib.sha256(b"p")
    for name, tensor in base.items():
        expected.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        expected.update(tensor.numpy().tobytes())
    assert digest_tensors(base, prefix=b"p") == expected.hexdigest()

    others = [
        {"b": base["b"], "a": base["a"] + 1},
        {"b": base["b"], "c": base["a"]},
        {"b": base["b"], "a": base["a"].reshape(2, 3)},
        {"b": base["b"], "a": base["a"].view(torch.int32)},
        {"b": base["b"]},
    ]
    digests = {digest_tensors(other) for other in [base, *others]}
    assert len(digests) == len(others) + 1
    assert digest_tensors({"b": base["b"], "a": base["a"]}) == digest_tensors(base)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(4, 4).T,
        torch.zeros(0, 3),
        torch.ones(2, requires_grad=True),
        torch.tensor([True, False]),
    ],
    ids=["0-d", "bfloat16", "view", "empty", "gradient", "bool"],
)
def test_every_tensor_has_a_digest(tensor):
    assert digest_tensors({"x": tensor}) == digest_tensors({"x": tensor.detach().clone()})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Van Gogh, ピカチュウ 😀", "Van Gogh, ピカチュウ 😀"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]52;c;ZXZpbA==\x07", "\\x1b]52;c;ZXZpbA==\\x07"),
        ("\x9b2J\x00\x7f\r", "\\x9b2J\\x00\\x7f\\r"),
        ("\ud800", "\\ud800"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("[bold]markup[/bold]", "[bold]markup[/bold]"),
        (None, "None"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(text, shown):
    assert plain(text) == shown
