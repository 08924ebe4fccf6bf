"""Prompts that should change as little as can be, as Gram matrices."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from multierase.errors import WriteError
from multierase.files import digest_tensors, replacing
from multierase.models.model import Model
from multierase.prompts.lists import TaggedPrompt
from multierase.separation.directions import gram

CACHE = ".keep"

logger = logging.getLogger(__name__)

Tags = frozenset[str]


@dataclass(frozen=True)
class KeepList:
    """Prompts to keep: their Gram matrices are all that a solve needs of them.

    Args:
        grams: by stream, by the concepts (of a library) that prompts are about, in lower case,
            ``(d, d)`` float64.
    """

    grams: Mapping[str, Mapping[Tags, torch.Tensor]]

    @classmethod
    def of(cls, model: Model, prompts: Iterable[TaggedPrompt], concepts: Iterable[str]) -> KeepList:
        """Make one of tagged prompts and the empty prompt.

        Args:
            concepts: those that may ever be erased.
        """
        known = {concept.lower() for concept in concepts}
        groups: dict[Tags, list[str]] = {frozenset(): [""]}
        for tagged in prompts:
            groups.setdefault(tagged.concepts & known, []).append(tagged.prompt)

        grams = {}
        for stream in model.streams:
            grams[stream] = {
                tags: gram(model.tokens(listed, stream)) for tags, listed in groups.items()
            }
        return cls(grams)

    @classmethod
    def cached(
        cls,
        folder: str | Path,
        model: Model,
        prompts: Sequence[TaggedPrompt],
        concepts: Iterable[str],
    ) -> KeepList:
        """Do as ``of``, and keep the last one in ``folder``: a long list takes minutes to encode.

        A cache that is damaged, or belongs to other prompts, concepts or text encoders, is made
        again. A read-only folder works too: the list is then made each time.
        """
        concepts = sorted(concepts)
        path, key = Path(folder) / CACHE, _key(model, prompts, concepts)
        stored = _read(path, key, model)
        if stored is not None:
            return stored

        keep = cls.of(model, prompts, concepts)
        try:
            _write(path, key, keep)
        except (WriteError, SafetensorError) as error:
            logger.warning(
                "the keep-list could not be cached, and is computed again next time: %s", error
            )
        return keep

    def gram(self, stream: str, erased: Iterable[str]) -> torch.Tensor:
        """Return ``(d, d)`` of all prompts that are about none of the erased concepts.

        They are summed in the order of names, so that a list that was read gives the same bits as
        one that was just made.
        """
        names = {concept.lower() for concept in erased}
        grams = self.grams[stream]
        kept = [grams[tags] for tags in sorted(grams, key=sorted) if not tags & names]

        return sum(kept[1:], kept[0])


def _key(model: Model, prompts: Sequence[TaggedPrompt], concepts: Sequence[str]) -> str:
    """Return a digest of everything that a keep-list is made from."""
    listed = [[tagged.prompt, *sorted(tagged.concepts)] for tagged in prompts]
    asked = json.dumps([listed, list(concepts)]).encode()
    # The empty prompt's embedding tells one text encoder from another.
    encoder = {stream: model.tokens([""], stream) for stream in model.streams}

    return digest_tensors(encoder, prefix=asked)


def _write(path: Path, key: str, keep: KeepList) -> None:
    tensors = {}
    for stream, grams in keep.grams.items():
        for tags, matrix in grams.items():
            tensors[f"{stream} {json.dumps(sorted(tags))}"] = matrix.contiguous()

    metadata = {"key": key, "sha256": digest_tensors(tensors)}
    with replacing(path) as temporary:
        # Not save_file, which leaves a temporary file of its own behind when it is killed.
        temporary.write_bytes(save(tensors, metadata))


def _read(path: Path, key: str, model: Model) -> KeepList | None:
    """Read a keep-list; ``None`` if there is none, or another, or a damaged one."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None

    if metadata.get("sha256") != digest_tensors(tensors):
        return None
    try:
        return _parsed(tensors, model)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _parsed(tensors: Mapping[str, torch.Tensor], model: Model) -> KeepList:
    grams: dict[str, dict[Tags, torch.Tensor]] = {stream: {} for stream in model.streams}
    for name, matrix in tensors.items():
        stream, _, tags = name.partition(" ")
        width = model.tokens([""], stream).shape[1]
        if tuple(matrix.shape) != (width, width) or not torch.isfinite(matrix).all():
            raise ValueError(f"{name} is no Gram matrix of this model")
        grams[stream][frozenset(json.loads(tags))] = matrix.double()

    if not all(grams.values()):
        raise ValueError("a stream has no Gram matrix")
    return KeepList(grams)
