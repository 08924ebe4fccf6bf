"""A composed model as a folder that plain diffusers loads; whole, or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from compositions import increments_of
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from families import tiny_sd3
from safetensors import SafetensorError

from multierase import Composer, KeepList, export_pipeline, from_pipeline
from multierase.errors import AlreadyThere, WriteError
from multierase.interop import pipeline as interop
from multierase.interop.exporting import export


@pytest.fixture
def composer(tiny):
    increments = increments_of(tiny)
    return Composer(tiny, increments, keep=KeepList.of(tiny, [], increments))


def test_plain_diffusers_loads_what_was_composed(tiny, composer, tmp_path):
    composer.set({"dali": 1.0, "van gogh": 0.5})
    folder = export_pipeline(tiny, composer, tmp_path / "new" / "folder")
    loaded = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    here = tiny.parameters()
    for name, parameter in loaded.unet.named_parameters():
        assert torch.equal(parameter, here[f"unet.{name}"]), name

    said = json.loads((folder / "multierase.json").read_text())
    assert said["solve"] == "joint"
    assert {name: of["strength"] for name, of in said["erased"].items()} == composer.erased
    assert said["erased"]["dali"]["prompts"] == ["dali"]
    assert said["deviations"] == composer.deviations()
    assert os.listdir(folder.parent) == ["folder"]
    assert folder.stat().st_mode & 0o777 == 0o777 & ~_umask()


@pytest.mark.parametrize("t5", [True, False])
def test_plain_diffusers_is_told_which_parts_a_pipeline_lacks(tokenizer, tmp_path, t5):
    model = from_pipeline(tiny_sd3(tokenizer, t5=t5), "tiny")
    written = export(Composer(model, {}), tmp_path / "out")
    assert written["absent"] == ([] if t5 else ["text_encoder_3", "tokenizer_3"])

    absent = dict.fromkeys(written["absent"])
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "out", **absent)
    assert (loaded.text_encoder_3 is not None) == t5
    if not t5:
        with pytest.raises(ValueError, match="text_encoder_3"):
            DiffusionPipeline.from_pretrained(tmp_path / "out")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_is_overwritten(tiny, composer, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("mine", "file"):
        with pytest.raises(AlreadyThere, match="give a new folder"):
            export_pipeline(tiny, composer, tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert (export_pipeline(tiny, composer, tmp_path / "empty") / "model_index.json").is_file()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), SafetensorError("IoError"), KeyboardInterrupt()]
)
def test_a_failed_export_leaves_nothing(tiny, composer, tmp_path, monkeypatch, error):
    whole = type(tiny.pipeline).save_pretrained

    def failing(pipeline, folder):
        whole(pipeline, folder)
        raise error

    monkeypatch.setattr(type(tiny.pipeline), "save_pretrained", failing)
    kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else WriteError
    with pytest.raises(kind):
        export_pipeline(tiny, composer, tmp_path / "folder")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(tiny, composer, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="cannot write into"):
        export_pipeline(tiny, composer, tmp_path / "folder")


def test_a_place_that_is_no_folder(tiny, composer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write into"):
        export_pipeline(tiny, composer, tmp_path / "file" / "folder")


def test_folders_of_killed_exports_are_collected_and_no_others(tiny, composer, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = interop._temporary(tmp_path / "folder")
    (here / "file").write_text("")
    killed = here.with_name(here.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    here.rename(killed)
    elsewhere = killed.with_name(".folder.another-host.1.00ff.multierase-export")
    running = interop._temporary(tmp_path / "folder")  # this process is alive
    others = [elsewhere, tmp_path / ".multierase-export", tmp_path / ".x.multierase-export"]
    for folder in others:
        folder.mkdir()

    export_pipeline(tiny, composer, tmp_path / "folder")
    assert not killed.exists()
    assert all(folder.exists() for folder in (running, *others, tmp_path / "folder"))
