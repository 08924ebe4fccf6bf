"""An interrupted run, kept in a file to go on from."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from multierase.errors import CheckpointError
from multierase.files import digest_bytes, replacing
from multierase.prompts.concepts import slug
from multierase.training.erasure import Erasure

SUFFIX = ".partial"

logger = logging.getLogger(__name__)


def checkpoint_path(folder: str | Path, concepts: Sequence[str], number: int = 0) -> Path:
    """Return where the checkpoint of a run that erases these concepts is kept.

    Args:
        number: of the round, where a run has several.
    """
    # By the concepts, so that another run never resumes from this one's state.
    digest = digest_bytes("/".join(concepts), length=8)
    again = f"-{number}" if number else ""

    return Path(folder) / f"{slug(concepts[0])}-{len(concepts)}-{digest}{again}{SUFFIX}"


def save_checkpoint(erasures: Sequence[Erasure], path: Path) -> None:
    """Write a run's state whole or not at all; raises ``WriteError``."""
    with replacing(path) as temporary:
        try:
            torch.save([erasure.state_dict() for erasure in erasures], temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(str(error)) from error


def load_checkpoint(erasures: Sequence[Erasure], path: Path) -> None:
    """Let a run go on from its checkpoint.

    Raises:
        CheckpointError: for a file that is damaged, or belongs to another run.
    """
    states = _read(path, erasures[0].model.device)
    if len(states) != len(erasures):
        raise CheckpointError(
            f"{path} is the checkpoint of {len(states)} concepts, {len(erasures)} are to be "
            "erased: name the same ones, or delete the file to start over"
        )

    for erasure, state in zip(erasures, states, strict=True):
        _require_same(erasure, state, path)
        try:
            erasure.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise _damaged(path, error) from error

    step = max(erasure.step for erasure in erasures)
    names = [erasure.concept.name for erasure in erasures]
    logger.info("resumed %r at step %d", names, step)


def _read(path: Path, device: torch.device) -> list[dict[str, Any]]:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise _damaged(path, "it is no archive of torch")  # nor a pickle of old, which is not read
    try:
        states = torch.load(path, weights_only=True, map_location=device)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error

    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        raise _damaged(path, "it holds no states of erasures")
    return states


def _damaged(path: Path, reason: object) -> CheckpointError:
    first = (str(reason).splitlines() or [""])[0][:200]

    return CheckpointError(f"{path} is damaged ({first}): delete it to start over")


def _require_same(erasure: Erasure, state: Mapping[str, Any], path: Path) -> None:
    try:
        there, here = json.loads(state["key"]), erasure.key
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error

    differing = list(_differing(there, here, ""))
    if differing:
        raise CheckpointError(
            f"{path} is the checkpoint of another erasure: {'; '.join(differing[:5])}; use the "
            "same settings, or delete the file to start over"
        )


def _differing(there: Any, here: Any, where: str) -> Iterator[str]:
    """Say in which entries two keys differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            inner = f"{where}.{name}" if where else name
            yield from _differing(there.get(name), here.get(name), inner)
    elif there != here:
        yield f"{where} is {there!r:.60} there, {here!r:.60} here"
