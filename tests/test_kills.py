"""Kill -9 at any moment: what is there is whole, and the next run goes on and clears away."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time

import killed
import pytest
import torch

from multierase import Composer, Library, Workspace, compress, export_pipeline, load_base
from multierase.increments.compression import DTYPES
from multierase.increments.library import SUFFIX
from multierase.training.checkpoint import SUFFIX as PARTIAL

KILLS = 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="nothing kills like this here"),
]


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["multierase.workspace", "multierase.increments.compression"])
    return context


@pytest.fixture
def base(tiny, tmp_path):
    folder = tmp_path / "base"
    tiny.pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(processes, base):
    """Run a job to its end, or kill it so many seconds after it has begun; return its seconds."""

    def run(job, folder, kill_after=None) -> float:
        began = processes.Event()
        process = processes.Process(target=job, args=(base, folder, began))
        process.start()
        assert began.wait(120)
        start = time.monotonic()
        process.join(kill_after)
        if kill_after is not None and process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        return time.monotonic() - start

    return run


@pytest.fixture
def library(base, tmp_path):
    """A library of one increment of a few steps."""
    workspace = Workspace(tmp_path / "library", base, create=True, device="cpu")
    settings = killed.EraseSettings(
        kind="none", steps=2, batch_size=1, sampler_steps=2, stop_at=None
    )
    workspace.train("Noto", settings=settings)
    return workspace.library


def names_in(folder) -> list[str]:
    return sorted(os.listdir(folder))


def same_deltas(one, other) -> bool:
    return one.deltas.keys() == other.deltas.keys() and all(
        torch.equal(one.dense(name), other.dense(name)) for name in one.deltas
    )


def test_erase(run, tmp_path):
    whole = tmp_path / "whole"
    seconds = run(killed.erase, whole)
    expected = Library(whole)
    chance, unfinished = random.Random(0), 0

    for number in range(KILLS):
        folder = tmp_path / str(number)
        run(killed.erase, folder, chance.uniform(0, seconds))
        library = Library(folder)
        assert library.problems() == {}
        unfinished += len(library) < 2
        for path in folder.glob(f"*{PARTIAL}"):
            assert isinstance(torch.load(path, weights_only=True), list)

        run(killed.erase, folder)
        assert names_in(folder) == names_in(whole)
        for concept, increment in expected.items():
            assert same_deltas(library[concept], increment)
    assert unfinished >= KILLS // 2  # most were killed on the way


def test_compress(run, library):
    original = library["Noto"]
    possible = [original, *(compress(original, 0.1, dtype) for dtype in DTYPES.values())]
    chance = random.Random(1)
    for _ in range(KILLS):
        run(killed.compress_again_and_again, library.folder, chance.uniform(0, 0.3))
        assert Library(library.folder).problems() == {}
        found = Library(library.folder)["Noto"]
        assert any(same_deltas(found, one) for one in possible)

        Library(library.folder).save(original, overwrite=True)
        assert [n for n in names_in(library.folder) if n != ".keep"] == [f"noto{SUFFIX}"]


def test_export(run, base, library):
    model, exports = load_base(base, device="cpu"), library.folder / "exports"
    composer = Composer(model, library)
    composer.erase("Noto")
    erased = {name: value.clone() for name, value in model.parameters().items()}
    chance, written = random.Random(2), 0
    for _ in range(KILLS):
        run(killed.export_again_and_again, library.folder, chance.uniform(0, 0.6))
        export_pipeline(model, composer, exports / "last")
        left = [name for name in names_in(exports) if name.startswith(".")]
        assert left == []  # the next run has cleared away

        for folder in exports.iterdir():
            written += 1
            assert (folder / "multierase.json").is_file()
            loaded = load_base(folder, device="cpu").parameters()
            assert all(torch.equal(loaded[name], erased[name]) for name in erased)
        shutil.rmtree(exports)
    assert written > KILLS
