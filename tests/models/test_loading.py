"""Folders, single files, and what is not loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from importlib import resources

import pytest
import torch
from diffusers import StableDiffusionPipeline
from single_file import save_single_file

from multierase import load_base
from multierase.errors import DeviceError, WeightsFileError


def test_emoji_is_an_ordinary_diffusers_folder(emoji):
    with resources.as_file(resources.files("multierase") / "assets" / "emoji") as folder:
        pipeline = StableDiffusionPipeline.from_pretrained(str(folder), dtype=torch.float32)
        size = sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file())
    assert size < 30e6
    here = emoji.parameters()
    for name, parameter in pipeline.unet.named_parameters():
        assert torch.equal(parameter, here[f"unet.{name}"])


def test_a_single_file_is_the_same_base_as_its_folder(tiny, tmp_path):
    pipeline = tiny.pipeline
    pipeline.save_pretrained(tmp_path / "folder")
    save_single_file(pipeline, tmp_path / "sd.safetensors")
    folder = str(tmp_path / "folder")
    model = load_base(tmp_path / "sd.safetensors", config=folder, device="cpu")
    for ours, theirs in ((model.pipeline.unet, pipeline.unet), (model.pipeline.vae, pipeline.vae)):
        expected = theirs.state_dict()
        for name, value in ours.state_dict().items():
            assert torch.equal(value, expected[name]), name
    torch.testing.assert_close(
        model.encode(["a church"])["tokens"], tiny.encode(["a church"])["tokens"]
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(sd_folder, dtype):
    assert load_base(sd_folder, device="cpu", dtype=dtype).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("source", ["./missing", "missing", "/no/such/folder", "x.safetensors"])
def test_a_base_that_is_not_there(source):
    with pytest.raises(FileNotFoundError, match="no base at|cannot load base"):
        load_base(source)


def test_unknown_dtype():
    allowed = r"dtype 'float8': give one of \['bfloat16', 'float16', 'float32'\]"
    with pytest.raises(ValueError, match=allowed):
        load_base("emoji", dtype="float8")


def test_a_device_that_is_not_there():
    with pytest.raises(DeviceError, match="give cpu, cuda"):
        load_base("emoji", device="gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA; give cpu"):
            load_base("emoji", device="cuda")


def test_a_pickled_checkpoint_is_not_loaded(tmp_path):
    path = tmp_path / "sd.safetensors"
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(WeightsFileError, match="not a safetensors file"):
        load_base(path)


def test_a_family_that_is_not_known(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(ValueError, match="is a WanPipeline, which is not supported"):
        load_base(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", "{}", "null"])
def test_a_folder_whose_index_cannot_be_read(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(WeightsFileError, match="cannot be read"):
        load_base(tmp_path)


def test_a_folder_with_damaged_weights(tiny, tmp_path):
    folder = tmp_path / "sd"
    tiny.pipeline.save_pretrained(folder)
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsFileError, match="is damaged, or not complete"):
        load_base(folder, device="cpu")
    shutil.rmtree(folder / "unet")
    with pytest.raises(WeightsFileError, match="not complete"):
        load_base(folder, device="cpu")
