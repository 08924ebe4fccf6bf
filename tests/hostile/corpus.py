"""Sound increment files, and a thousand damaged ones from them and a seed; no torch.

Damaged is what disks and networks do: flipped bits, lost ends, swapped blocks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from by_hand import K, Q, V, assemble, base_of, body_of

Arrays = dict[str, np.ndarray]
Body = dict[str, Any]
DAMAGED = 1000
NAME = "x"  # the concept of every file, so that each is at its right place


def numbers(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- sound files


def dense() -> tuple[Body, Arrays]:
    tensors = {K: numbers(6, 4), Q: numbers(5, 3), "unet.bias": numbers(7)}
    body = body_of(NAME, {name: tensor.shape for name, tensor in tensors.items()})

    return body, {**tensors, "gram.tokens": numbers(4, 2)}


def factored() -> tuple[Body, Arrays]:
    body = body_of(NAME, {K: (6, 4), V: (6, 4), Q: (5, 3)})
    body["history"] = [{"step": "renamed", "from": "y"}]
    body["provenance"] |= {
        "cost": {"evaluations": 9, "seconds": 1.5, "peak_memory_mib": 7},
        "stop": {"reason": "erased", "steps": 2, "degree": 0.5, "degrees": [1.0, 0.5]},
        "separation": {
            "kept_exactly": [""],
            "kept_in_mean": {"prompts": 3, "sha256": "ab"},
            "directions": {"tokens": {"rank": 2.0, "residual": 0.5}},
        },
    }
    tensors = {
        K + ".up": numbers(6, 2),
        V + ".up": numbers(6, 2, seed=1),
        "shared.tokens.down": numbers(2, 4),
        Q + ".up": numbers(5, 1),
        Q + ".down": numbers(1, 3),
        "gram.tokens": numbers(4, 2),
    }

    return body, tensors


def compressed() -> tuple[Body, Arrays]:
    step = {"step": "compressed", "error": 0.1, "allowed": 0.2, "dtype": "int8"}
    body = body_of(NAME, {K: (6, 4), V: (6, 4), Q: (5, 3)}, history=[step])
    tensors = {
        K + ".up": (numbers(6, 2) * 50).astype(np.int8),
        V + ".up": (numbers(6, 2, seed=1) * 50).astype(np.int8),
        "shared.tokens.down": numbers(2, 4),
        Q: numbers(5, 3, dtype="float16"),
        "gram.tokens": numbers(4, 2, dtype="float16"),
    }

    return body, tensors


def first_version() -> tuple[Body, Arrays]:
    k, v, q = (name.removeprefix("unet.") for name in (K, V, Q))
    ones = {k: np.ones((6, 4), "float32"), v: np.ones((6, 4), "float32"), q: np.ones((5, 3), "f4")}
    info = {
        "concept": NAME,
        "prompts": ["x"],
        "contexts": [""],
        "anchor": "",
        "erase_from": None,
        "scope": "esd-x-strict",
        "settings": {"objective": "esd"},
        "seed": 0,
        "version": "0.1.0",
        "stop_reason": "steps",
        "erasure_degree": 0.5,
        "erasure_degrees": [1.0, 0.5],
        "steps": 2,
        "unet_evaluations": 9,
        "seconds": 1.5,
        "peak_memory_mib": 7,
        "decoupled_from": {"exactly": [""], "known": {"prompts": 3, "sha256": "ab"}},
        "rank": 2,
        "residual": 0.5,
    }
    body = {"format_version": 1, "base": base_of(ones, version=1), "info": info}
    tensors = {
        k + ".up": numbers(6, 2),
        v + ".up": numbers(6, 2, seed=1),
        "shared.down": numbers(2, 4),
        q: numbers(5, 3),
        "gram.factor": numbers(4, 2),
    }

    return body, tensors


SOUND: dict[str, Callable[[], tuple[Body, Arrays]]] = {
    "dense": dense,
    "factored": factored,
    "compressed": compressed,
    "first version": first_version,
}


def sound_files() -> dict[str, bytes]:
    """Return the bytes of the sound files."""
    return {name: assemble(*make()) for name, make in SOUND.items()}


# ---- damaged


def damaged(seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """Yield ``DAMAGED`` files: the sound one's name, what was done, and the bytes."""
    chance = random.Random(seed)
    files = sound_files()
    ways = sorted(DAMAGES)
    made = 0
    while made < DAMAGED:
        name, way = chance.choice(sorted(files)), ways[made % len(ways)]
        data = DAMAGES[way](bytearray(files[name]), chance)
        if bytes(data) != files[name]:
            made += 1
            yield name, way, bytes(data)


def _flip_bits(data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)

    return data


def _edit_header(data: bytearray, chance: random.Random) -> bytearray:
    """Change characters of the header into other ones that JSON knows."""
    end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(chance.choice([1, 2, 4])):
        data[chance.randrange(8, end)] = chance.choice(b'0123456789{}[]":,. \\truefalsn-')

    return data


def _edit_length(data: bytearray, chance: random.Random) -> bytearray:
    length = int.from_bytes(data[:8], "little")
    other = chance.choice([0, 1, length - 8, length + 8, 2**31, 2**63, 2**64 - 1, len(data)])

    return bytearray(max(other, 0).to_bytes(8, "little")) + data[8:]


def _cut(data: bytearray, chance: random.Random) -> bytearray:
    return data[: chance.randrange(len(data))]


def _extend(data: bytearray, chance: random.Random) -> bytearray:
    return data + chance.randbytes(chance.choice([1, 8, 4096]))


def _zero_range(data: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(data))
    length = min(chance.choice([4, 64, 512]), len(data) - start)
    data[start : start + length] = bytes(length)

    return data


def _swap_ranges(data: bytearray, chance: random.Random) -> bytearray:
    """Swap two blocks of the numbers, as whole tensors of one shape would be."""
    begin = 8 + int.from_bytes(data[:8], "little")
    length = chance.choice([4, 8, 16, 48])
    a, b = (chance.randrange(begin, len(data) - length) for _ in range(2))
    block = bytes(data[a : a + length])
    data[a : a + length] = data[b : b + length]
    data[b : b + length] = block

    return data


def _delete_range(data: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice([1, 7, 64])]

    return data


def _repeat_range(data: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.choice([1, 8, 64])]

    return data


DAMAGES: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
    "flipped bits": _flip_bits,
    "edited header": _edit_header,
    "edited length": _edit_length,
    "cut short": _cut,
    "extended": _extend,
    "zeroed range": _zero_range,
    "swapped ranges": _swap_ranges,
    "deleted range": _delete_range,
    "repeated range": _repeat_range,
}
