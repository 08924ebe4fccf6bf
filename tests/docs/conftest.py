"""Tiny pipelines in the place of hub ids, and erasures that are made once for all pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
from stand_ins import STAND_INS

from multierase import EraseSettings, Workspace, load_increment
from multierase.methods import Refusal, as_concepts
from multierase.training import adversary, defaults, trial
from multierase.workspace import Trained

DEFAULT_KIND = defaults.DEFAULT_KIND  # before the tests' own conftest takes it away
QUICK = {
    "steps": 2,
    "batch_size": 1,
    "trajectories": 1,
    "sampler_steps": 2,
    "schedule": "pooled",
    "rank": 4,
}


class HubIds:
    """The folders of the stand-ins, made when they are first asked for."""

    def __init__(self, folder: Path, tokenizer: object):
        self.folder, self.tokenizer = folder, tokenizer

    def __call__(self, source: object) -> object:
        """Return the stand-in's folder for a hub id, and anything else as it is."""
        if source not in STAND_INS:
            return source

        folder = self.folder / str(source).split("/")[1]
        if not folder.exists():
            STAND_INS[str(source)](self.tokenizer).save_pretrained(folder)
        return str(folder)


@pytest.fixture(scope="session")
def hub_ids(tokenizer, tmp_path_factory) -> HubIds:
    return HubIds(tmp_path_factory.mktemp("hub"), tokenizer)


@pytest.fixture(scope="session")
def erased_once(tmp_path_factory) -> dict[object, Path]:
    """Folders of increments, by what was asked for."""
    return {}


@pytest.fixture
def stand_ins(hub_ids, erased_once, tmp_path_factory, monkeypatch) -> None:
    """Put tiny pipelines in place of hub ids, and give an erasure that was made before again."""
    monkeypatch.setattr(defaults, "DEFAULT_KIND", DEFAULT_KIND)
    monkeypatch.setattr(adversary, "STEPS", 2)

    for name in ("from_pretrained", "load_config"):
        plain = getattr(diffusers.DiffusionPipeline, name).__func__
        monkeypatch.setattr(
            diffusers.DiffusionPipeline, name, classmethod(_of_stand_in(plain, hub_ids))
        )

    def folder() -> Path:
        return tmp_path_factory.mktemp("erased")

    monkeypatch.setattr(
        Workspace, "train", _trained_once(Workspace.train, erased_once, folder, monkeypatch)
    )


def _of_stand_in(plain: Callable, hub_ids: HubIds) -> Callable:
    return lambda cls, source, *values, **options: plain(cls, hub_ids(source), *values, **options)


def _trained_once(
    train: Callable,
    known: dict[object, Path],
    new_folder: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable:
    def trained(self: Workspace, *concepts, settings=None, **options):
        settings, keep = settings or EraseSettings(), self.keep
        if self.model.name in STAND_INS:
            # Random weights understand no name, and a text tower of 32 numbers has no room to keep
            # prompts exactly.
            monkeypatch.setattr(trial, "DRAWN", 0.0)
            settings, keep = replace(settings, **QUICK), []
        wanted = tuple(as_concepts(concepts))
        key = self.model.name, wanted, settings, options.get("method", "esd"), tuple(keep)

        if key not in known:
            kept_prompts, self.keep = self.keep, keep
            results = train(self, *wanted, settings=settings, **options)
            self.keep = kept_prompts
            assert not [one for one in results if isinstance(one, Refusal)]
            known[key] = new_folder()
            made = [result.path for result in results]
            for path in [*made, *self.library.folder.glob(".dictionary-*")]:
                shutil.copy(path, known[key])
            return results

        names = [concept.name for concept in wanted]
        self.library.check_targets(names, overwrite=options.get("overwrite", False))
        for path in known[key].iterdir():
            shutil.copy(path, self.library.folder)
        self._forget()
        paths = [self.library.path(name) for name in names]
        return [Trained(load_increment(path), path) for path in paths]

    return trained
