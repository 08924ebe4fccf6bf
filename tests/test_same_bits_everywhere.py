"""Command line, Python, the README's way, demonstration and evaluation: one request, one model."""

from __future__ import annotations

from dataclasses import replace

import pytest

import multierase.demo
from multierase import (
    Composer,
    EraseSettings,
    KeepList,
    Library,
    Workspace,
    load_base,
)
from multierase.cli.main import main
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.files import digest_tensors
from multierase.shows import OF_EMOJI, SHOWS

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure

ERASED = ["Noto", "Twemoji"]
SETTINGS = EraseSettings(
    kind="none", steps=4, batch_size=2, sampler_steps=4, stop_at=None, learning_rate=1e-2
)


@pytest.fixture(scope="module")
def folder(emoji, tmp_path_factory):
    """A library of three concepts, of which two are erased."""
    folder = tmp_path_factory.mktemp("library")
    Workspace(folder, emoji).train(*ERASED, "Firefox", settings=SETTINGS)
    return folder


@pytest.fixture(scope="module")
def digest(emoji, folder):
    """The weights by the least that there is to say: a composer with the base's keep-list."""
    library = Library(folder)
    keep = KeepList.of(emoji, emoji.known_prompts, library)
    composer = Composer(emoji, library, keep=keep)
    with composer.erasing(*ERASED):
        return weights_of(emoji)


def weights_of(model) -> str:
    return digest_tensors(model.parameters())


@pytest.fixture
def seen(monkeypatch):
    """The digests of the weights with which pictures are made."""
    digests = []

    def noted(module):
        whole = module.generate

        def generate(model, *args, **kwargs):
            digests.append(weights_of(model))
            return whole(model, *args, **kwargs)

        monkeypatch.setattr(module, "generate", generate)

    from multierase import workspace
    from multierase.evaluation import evaluator

    noted(workspace)
    noted(evaluator)
    return digests


def test_the_sum_would_be_another_model(emoji, folder, digest):
    with Composer(emoji, Library(folder)).erasing(*ERASED):
        assert weights_of(emoji) != digest


def test_workspace(emoji, folder, digest):
    workspace = Workspace(folder, emoji)
    for erase in (
        lambda: workspace.erase(*ERASED),
        lambda: workspace.set(dict.fromkeys(reversed(ERASED), 1.0)),
    ):
        erase()
        assert weights_of(emoji) == digest
        workspace.restore_all()
    with workspace.erasing(*ERASED):
        assert weights_of(emoji) == digest


def test_a_keep_list_from_its_cache(emoji, folder, digest):
    for _ in range(2):
        keep = KeepList.cached(folder, emoji, emoji.known_prompts, Library(folder))
        with Composer(emoji, Library(folder), keep=keep).erasing(*ERASED):
            assert weights_of(emoji) == digest


def test_generate(folder, digest, seen, tmp_path):
    sheet = tmp_path / "sheet.png"
    line = ["generate", "a cat", "--library", folder, "--out", sheet, "--inference-steps", 1]
    assert main([str(part) for part in [*line, "--device", "cpu", "--erase", *ERASED]]) == 0
    assert sheet.is_file()
    assert seen == [digest]


def test_compose(folder, digest, tmp_path):
    line = ["export", "--library", folder, "--out", tmp_path / "model", "--erase", *ERASED]
    assert main([str(part) for part in [*line, "--device", "cpu"]]) == 0
    assert weights_of(load_base(tmp_path / "model", device="cpu")) == digest


@pytest.mark.parametrize("given", ["model", "source"])
def test_evaluator(emoji, folder, digest, seen, given):
    experiment = Experiment(
        "studios", library=str(folder), device="cpu", inference_steps=1, batch_size=512
    )
    evaluator = Evaluator(experiment, model=emoji if given == "model" else None)
    evaluator.observe(ERASED)
    assert set(seen) == {digest}


@pytest.mark.slow
def test_demo(emoji, tmp_path, monkeypatch):
    """With increments of its own: every state is what a composer makes of them."""
    found, whole = {}, multierase.demo._observed

    def noted(*args):
        found.update(whole(*args))
        return found

    monkeypatch.setattr(multierase.demo, "_observed", noted)
    short = replace(OF_EMOJI, judged=lambda studio: OF_EMOJI.judged(studio)[:1])
    monkeypatch.setitem(SHOWS, "emoji", short)
    multierase.demo.run_demo(emoji, tmp_path, SETTINGS)

    library = Library(tmp_path / "lib")
    keep = KeepList.of(emoji, emoji.known_prompts, library)
    composer = Composer(emoji, library, keep=keep)
    for state, erased in OF_EMOJI.states.items():
        with composer.erasing(*erased):
            assert found[state].weights == weights_of(emoji), state
