"""420 hostile things at the place of an increment file, from a seed; no torch.

Hostile is what somebody does who knows the format: the digest is right, and what it covers is
wrong.
"""

from __future__ import annotations

import copy
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from by_hand import K, Q, V, assemble, body_of, container, digest, entries_of
from corpus import NAME, SOUND, Arrays, Body, dense, factored, numbers

HOSTILE = 420


@dataclass(frozen=True)
class Hostile:
    """Something at the place of a file.

    Args:
        name: what is wrong with it.
        place: puts it at a path.
    """

    name: str
    place: Callable[[Path], object]


def hostile(seed: int = 0) -> list[Hostile]:
    """Return ``HOSTILE`` cases: every one by hand, and a draw of those by rule."""
    cases = [*_of_tensors(), *_of_names(), *_of_texts(), *_of_containers(), *_of_places()]
    by_rule = [*_of_types(seed)]
    drawn = random.Random(seed).sample(by_rule, HOSTILE - len(cases))

    return cases + drawn


def _file(name: str, data: bytes) -> Hostile:
    return Hostile(name, lambda path: path.write_bytes(data))


def _of(name: str, body: Body, tensors: Arrays) -> Hostile:
    return _file(name, assemble(body, tensors))


WRONG = [
    None, True, 0, -1, 1.5, 1e300, 10**30, "", "y", "\x1b[2J", "\ud800", [], [None], [[]], {},
    {"a": {"b": []}}, ["x"] * 1000, "x" * 100_000,
]  # fmt: skip
DEEP = "@deep@"


def _of_types(seed: int) -> Iterator[Hostile]:
    """Put something wrong at every key of the metadata, at every depth."""
    for name, make in SOUND.items():
        body, tensors = make()
        for keys in _paths(body):
            for number, wrong in enumerate([*WRONG, DEEP, "missing"]):
                changed = copy.deepcopy(body)
                inner = changed
                for key in keys[:-1]:
                    inner = inner[key]
                if number == len(WRONG) + 1:
                    del inner[keys[-1]]
                else:
                    inner[keys[-1]] = wrong
                label = f"{name}: {'.'.join(map(str, keys))} = {wrong!r:.40}"
                if wrong == DEEP:
                    yield _deep(label, changed, tensors)
                elif keys == ["sha256"]:
                    yield _file(label, assemble(changed, tensors, sha256=wrong))
                else:
                    yield _of(label, changed, tensors)


def _paths(value: Any, above: tuple = ()) -> Iterator[list]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield [*above, key]
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*above, key))


def _deep(name: str, body: Body, tensors: Arrays, depth: int = 10_000) -> Hostile:
    """Nest deeper than ``json`` would write; no digest can be right for what cannot be read."""
    text = json.dumps({**body, "sha256": "0" * 64})
    text = text.replace(json.dumps(DEEP), "[" * depth + "]" * depth)
    entries, data = entries_of(tensors)
    header = json.dumps({"__metadata__": {"multierase": text}, **entries})

    return _file(name, container(header, data))


def _of_tensors() -> Iterator[Hostile]:
    body, tensors = factored()
    plain_body, plain = dense()

    for dtype in ("float64", "complex64", "bool", "int64", "uint8", "float16", "int8"):
        yield _of(f"{dtype} up", body, {**tensors, K + ".up": tensors[K + ".up"].astype(dtype)})
        yield _of(f"{dtype} dense", plain_body, {**plain, Q: plain[Q].astype(dtype)})
        gram = tensors["gram.tokens"].astype(dtype)
        yield _of(f"{dtype} Gram", body, {**tensors, "gram.tokens": gram})

    for shape in ((), (1,), (8,), (2, 4), (4, 2, 1), (0, 4), (4, 0), (4, 4), (4, 9), (5, 2)):
        gram = np.ones(shape, "float32")
        yield _of(f"Gram of shape {shape}", body, {**tensors, "gram.tokens": gram})
    for shape in ((), (1,), (6,), (6, 3), (3, 2), (6, 2, 1), (0, 2), (6, 0)):
        yield _of(f"up of shape {shape}", body, {**tensors, K + ".up": np.ones(shape, "float32")})
        yield _of(f"dense of shape {shape}", plain_body, {**plain, K: np.ones(shape, "float32")})
        down = np.ones(shape, "float32")
        yield _of(f"shared of shape {shape}", body, {**tensors, "shared.tokens.down": down})

    for value in (0.0, np.nan, np.inf, -np.inf, 1e20, 3e38, 1e-45, -0.0):
        filled = {name: np.full_like(tensor, value) for name, tensor in tensors.items()}
        yield _of(f"factors of {value}", body, filled)
        filled = {name: np.full_like(tensor, value) for name, tensor in plain.items()}
        yield _of(f"dense of {value}", plain_body, filled)
    yield _of("float64 of 1e300", plain_body, {**plain, Q: np.full((5, 3), 1e300)})

    yield from _of_sizes()
    yield from _of_unused(body, tensors)


def _of_sizes() -> Iterator[Hostile]:
    """Ask for more than a file holds."""
    for side, rank in ((100_000, 1), (2**20, 1), (11_000, 1), (3000, 8)):
        body = body_of(NAME, {Q: (1, 1)})
        factors = {
            Q + ".up": np.ones((side, rank), "float32"),
            Q + ".down": np.ones((rank, side), "float32"),
        }
        yield _of(f"factors of {side}² at rank {rank}", body, factors)

    wide = {K + ".up": np.ones((1, 1), "f4"), K + ".down": np.ones((1, 200_000), "float32")}
    yield _of("200,000 inputs", body_of(NAME, {K: (1, 200_000)}), wide)
    yield _of(
        "200,000 inputs, dense", body_of(NAME, {Q: (1, 200_000)}), {Q: np.ones((1, 200_000), "f4")}
    )
    for rank in (5, 7, 100):
        body = body_of(NAME, {Q: (5, 4)})
        tensors = {Q + ".up": numbers(5, rank), Q + ".down": numbers(rank, 4)}
        yield _of(f"rank {rank} of a layer of 5 by 4", body, tensors)


def _of_unused(body: Body, tensors: Arrays) -> Iterator[Hostile]:
    one = np.ones((2, 2), "float32")
    for name in (
        "more", "unet.other.weight", K, K + ".up.up", K + ".down", "unet.other.up", "shared.down",
        "unet.other.down", "shared.pooled.down", "gram.pooled", "gram.", "gram.a b", ".up", ".down",
        "gram.factor", "shared.tokens.down.up", "__metadata__.x", "a" * 513, "a\x00b", "\x1b[2J",
    ):  # fmt: skip
        yield _of(f"one tensor more: {name!r:.40}", body, {**tensors, name: one})
    for name in sorted(tensors):
        fewer = {other: tensor for other, tensor in tensors.items() if other != name}
        yield _of(f"one tensor less: {name}", body, fewer)
    yield _of("no tensor", body, {})
    yield _of("nothing at all", body_of(NAME, {}), {})


NAMES = [
    "", " ", "x ", "\n", "\t", "a\x00b", "\x1b[31mred", "\x1b]52;c;ZXZpbA==\x07", "\x9b2J", "\x07",
    "[/x]", "[bold red]x", "[link=http://x]x[/link]", "../x", "..", "/etc/passwd", "a\\b", "CON",
    "x" * 300, "ピ" * 300, "\ud800", "a\u202eb", "\u200b", "=1+1", "@SUM(1)", "-x", "\\input{x}",
    "%s%n", "{x}", "x.safetensors", "X", "x!", "unnamed", "\ufffe", "é",
]  # fmt: skip


def _of_names() -> Iterator[Hostile]:
    """Names that a terminal, a table, a shell or a file system would obey."""
    body, tensors = dense()
    for name in NAMES:
        named = copy.deepcopy(body)
        named["provenance"]["concept"] = name
        yield _of(f"concept {name!r:.30}", named, tensors)

        told = copy.deepcopy(body)
        told["base"]["name"] = name
        told["provenance"] |= {"prompts": [name], "scope": name, "method": name, "anchor": name}
        told["provenance"]["settings"] = {name: name}
        told["history"] = [{"step": name, name: name}]
        yield _of(f"all else {name!r:.30}", told, tensors)


def _of_texts() -> Iterator[Hostile]:
    body, tensors = dense()
    for version in (0, 3, -1, 99, "1", "2", "", True, False, None, 1.0, 2.0, [2], {}, 10**40):
        yield _of(f"version {version!r}", {**body, "format_version": version}, tensors)
    for family in ("", "flux", "stable-diffusion ", None, 3, ["stable-diffusion"]):
        base = {**body["base"], "family": family}
        yield _of(f"family {family!r}", {**body, "base": base}, tensors)
    for history in (
        [{}], [[]], [None], ["compressed"], [{"step": None}], [{"step": 3}], [{"Step": "x"}],
        [{"step": "compressed"}], [{"step": "compressed", "dtype": "float64"}],
        [{"step": "compressed", "dtype": "int8"}], [{"step": "compressed", "dtype": None}],
        [{"step": "compressed", "dtype": ["int8"]}], [{"step": "renamed"}] * 10_000,
    ):  # fmt: skip
        yield _of(f"history {history!r:.50}", {**body, "history": history}, tensors)
    for readers in (
        {K: "pooled"}, {Q: "tokens"}, {"unet.bias": "tokens"}, {"nothing": "tokens"}, {K: None},
        {K: ["tokens"]}, {K: "tok ens"}, {K: ""}, {"": "tokens"}, {V: "tokens"}, [K], "tokens",
    ):  # fmt: skip
        yield _of(f"readers {readers!r}", {**body, "readers": readers}, tensors)
    for depth in (33, 500, 900):
        deep: Any = []
        for _ in range(depth):
            deep = [deep]
        told = copy.deepcopy(body)
        told["provenance"]["settings"] = {"deep": deep}
        yield _of(f"{depth} levels", told, tensors)
    yield _of("an entry more", {**body, "more": 1}, tensors)


def _of_containers() -> Iterator[Hostile]:
    """Write containers that may be read in two ways, or in none."""
    body, tensors = dense()
    whole = {**body, "sha256": digest(body, tensors)}
    metadata = {"multierase": json.dumps(whole, sort_keys=True)}
    entries, data = entries_of(tensors)

    def told(name: str, entries: dict, metadata: Any = metadata, data: bytes = data) -> Hostile:
        return _file(name, container(json.dumps({"__metadata__": metadata, **entries}), data))

    keyed = [{"multierase": wrong} for wrong in (None, 3, {}, "", "null", "[]", "{")]
    for wrong in (None, [], "x", 3, {}, *keyed, {**metadata, "format": "pt"}, {**metadata, "x": 3}):
        yield told(f"metadata {wrong!r:.40}", entries, metadata=wrong)

    name, size = Q, entries[Q]["data_offsets"][1]
    for key, wrong in (
        ("data_offsets", [0, 0]), ("data_offsets", [0, size]), ("data_offsets", [-4, 56]),
        ("data_offsets", [0.0, 60.0]), ("data_offsets", ["0", "60"]), ("data_offsets", [0]),
        ("data_offsets", [2**63, 2**63 + 60]), ("data_offsets", [60, 0]), ("data_offsets", None),
        ("data_offsets", {"0": 0}), ("shape", [True, 15]), ("shape", [15.0]), ("shape", ["5", 3]),
        ("shape", [-5, -3]), ("shape", [2**62, 4]), ("shape", [1] * 10_000 + [15]), ("shape", None),
        ("shape", [10**18] * 2000), ("shape", 15), ("shape", {"5": 3}), ("shape", [15, 1, 1]),
        ("dtype", "F8_E4M3"), ("dtype", "F8_E5M2"), ("dtype", "BF16"), ("dtype", "f32"),
        ("dtype", None), ("dtype", ["F32"]), ("dtype", "I32"), ("more", 1),
    ):  # fmt: skip
        changed = {**entries, name: {**entries[name], key: wrong}}
        yield told(f"entry {key} {wrong!r:.40}", changed)
    yield told("no offsets", {**entries, name: {"dtype": "F32", "shape": [5, 3]}})
    yield told("entry is a list", {**entries, name: []})
    yield told("entry is null", {**entries, name: None})
    yield told("a gap", entries, data=data + bytes(4))

    # Two tensors over the same bytes, and the end of the file in its right place.
    same = {**entries, "unet.bias": {**entries["unet.bias"], "data_offsets": [0, 28]}}
    yield told("overlapping", same)

    text = json.dumps({"__metadata__": metadata, **entries})
    twice = text[:-1] + f', "{Q}": ' + json.dumps(entries[Q]) + "}"
    yield _file("a tensor twice", container(twice, data))
    inner = json.dumps(whole)[:-1] + ', "format_version": 1}'
    yield told("a key twice", entries, metadata={"multierase": inner})
    infinite = json.dumps(whole).replace('"steps": 3', '"steps": 1e999')
    yield told("1e999", entries, metadata={"multierase": infinite})
    nan = json.dumps(whole).replace('"steps": 3', '"steps": NaN')
    yield told("NaN", entries, metadata={"multierase": nan})
    long = json.dumps(whole).replace('"steps": 3', f'"steps": {"9" * 5000}')
    yield told("5,000 digits", entries, metadata={"multierase": long})
    yield told(
        "half a million digits",
        entries,
        metadata={"multierase": long.replace("9" * 5000, "9" * 500_000)},
    )

    for filling in (b" ", b"[", b'{"a":', b"[0,"):
        size = 60 * 2**20 // len(filling)
        yield Hostile(f"header of 60 MB: {filling!r}", _large(filling, size))
    for filling, end in ((b"[],", b"[]]"), (b"{},", b"{}]"), (b'"a",', b'"a"]'), (b"0,", b"0]")):
        size = (2**24 - 16) // len(filling)
        yield Hostile(f"header of 16 MB: {filling!r}", _large(filling, size, b"[", end))
    yield _file("an array", container("[]", b""))
    yield _file("latin", container(b'{"\xff": 1}     ', b""))
    yield _file("utf-16", container(text.encode("utf-16"), data))


def _large(filling: bytes, times: int, begin: bytes = b"", end: bytes = b"") -> Callable:
    """Return what writes a large header when it is asked for, and not before."""
    return lambda path: path.write_bytes(container(begin + filling * times + end, b""))


def _of_places() -> Iterator[Hostile]:
    """Things at the place of a file that are no file, or another one's."""
    whole = assemble(*dense())

    def renamed(path: Path) -> None:
        path.with_name("y.safetensors").write_bytes(whole)

    def linked(path: Path) -> None:
        other = path.parent / "elsewhere"
        other.write_bytes(whole)
        path.symlink_to(other)

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as end:
            here = os.getcwd()
            os.chdir(path.parent)  # a socket's path is short
            try:
                end.bind(path.name)
            finally:
                os.chdir(here)

    yield Hostile("renamed", renamed)
    yield Hostile("copied", lambda path: (path.write_bytes(whole), renamed(path)))
    yield Hostile("linked", linked)
    yield Hostile("linked to nothing", lambda path: path.symlink_to(path.parent / "nothing"))
    yield Hostile("linked to itself", lambda path: path.symlink_to(path))
    yield Hostile("linked to /dev/zero", lambda path: path.symlink_to("/dev/zero"))
    yield Hostile("linked to its folder", lambda path: path.symlink_to(path.parent))
    yield Hostile("a pipe", lambda path: os.mkfifo(path))
    yield Hostile("a socket", listening)
    yield Hostile("a folder", lambda path: path.mkdir())
    yield Hostile("a name that is no text", lambda path: Path(os.fsdecode(
        os.fsencode(path.parent) + b"/\xff\x1b[2J.safetensors")).write_bytes(whole))  # fmt: skip
    yield Hostile("a name that a terminal obeys", lambda path: path.with_name(
        "\x1b]52;c;x\x07[bold].safetensors").write_bytes(whole))  # fmt: skip
    yield _file("empty", b"")
    yield _file("8 bytes", bytes(8))
    yield _file("a length alone", (2).to_bytes(8, "little"))
    yield _file("text", b"not a file of numbers")
