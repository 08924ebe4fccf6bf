"""Increment files assembled from docs/increment-file.md with struct, json and numpy alone."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

CODES = {"float32": "F32", "float16": "F16", "int8": "I8", "float64": "F64", "bool": "BOOL"}
CODES |= {"complex64": "C64", "int64": "I64", "uint8": "U8"}
K, V = "unet.mid.attn2.to_k.weight", "unet.mid.attn2.to_v.weight"
Q = "unet.mid.attn1.to_q.weight"

Arrays = Mapping[str, np.ndarray]


def digest(body: Mapping[str, Any], tensors: Arrays) -> str:
    """Return the SHA-256 of the metadata, without its own entry, and of every tensor."""
    rest = {key: value for key, value in body.items() if key != "sha256"}
    sha256 = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha256.update(f"{name} torch.{tensor.dtype} {tensor.shape}".encode(errors="surrogatepass"))
        sha256.update(tensor.tobytes())

    return sha256.hexdigest()


def entries_of(tensors: Arrays) -> tuple[dict[str, Any], bytes]:
    """Return the container's entries, widest numbers first and then by name, and all the bytes."""
    entries, data = {}, b""
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = tensors[name]
        place = len(data)
        data += tensor.tobytes()
        entries[name] = {
            "dtype": CODES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [place, len(data)],
        }

    return entries, data


def container(header: str | bytes, data: bytes) -> bytes:
    """Return length, header and data; the header is filled up to a multiple of eight."""
    text = header if isinstance(header, bytes) else header.encode()
    text += b" " * (-len(text) % 8)

    return struct.pack("<Q", len(text)) + text + data


def assemble(body: Mapping[str, Any], tensors: Arrays, *, sha256: str | None = None) -> bytes:
    """Return a whole file, with the right digest unless another is given."""
    body = {**body, "sha256": digest(body, tensors) if sha256 is None else sha256}
    entries, data = entries_of(tensors)
    metadata = {"multierase": json.dumps(body, sort_keys=True)}
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":"))

    return container(header, data)


def fingerprint_of(tensor: np.ndarray) -> tuple[str, list[float]]:
    """Return digest and sketch of one of the base's own tensors."""
    flat = tensor.astype(np.float64).ravel()
    bits = (np.arange(flat.size, dtype=np.int64) * 2654435761 + 40503) >> 13
    projection = float((flat * ((bits & 1) * 2 - 1)).sum() / np.sqrt(flat.size))
    short = hashlib.sha256(tensor.tobytes()).hexdigest()[:16]

    return short, [float(np.sqrt((flat**2).mean())), projection]


def base_of(weights: Arrays, *, version: int = 2) -> dict[str, Any]:
    """Return the entry ``base`` of either version."""
    prints = {name: fingerprint_of(tensor) for name, tensor in weights.items()}
    base: dict[str, Any] = {
        "name": "tiny",
        "dtype": "float32",
        "digests": {name: short for name, (short, _) in prints.items()},
        "sketches": {name: sketch for name, (_, sketch) in prints.items()},
    }

    return base if version == 1 else {**base, "family": "stable-diffusion"}


def provenance_of(concept: str, **stated: Any) -> dict[str, Any]:
    """Return the entry ``provenance``, with nothing known."""
    return {
        "concept": concept,
        "prompts": [concept],
        "contexts": [""],
        "anchor": "",
        "erase_from": None,
        "method": "esd",
        "scope": "esd-x",
        "settings": {"steps": 3},
        "seed": 0,
        "version": "0.2.0",
        "cost": None,
        "stop": None,
        "separation": None,
        "certificate": None,
        **stated,
    }


def body_of(
    concept: str,
    parameters: Mapping[str, tuple[int, ...]],
    *,
    readers: Mapping[str, str] | None = None,
    history: list | None = None,
) -> dict[str, Any]:
    """Return the metadata of version 2 for an increment of these parameters, of a base of ones."""
    ones = {name: np.ones(shape, np.float32) for name, shape in parameters.items()}
    if readers is None:
        readers = {name: "tokens" for name in parameters if ".attn2.to_" in name}

    return {
        "format_version": 2,
        "base": base_of(ones),
        "provenance": provenance_of(concept),
        "history": history or [],
        "readers": dict(readers),
    }
