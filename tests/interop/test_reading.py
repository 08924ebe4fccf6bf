"""Files of strangers are read, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from multierase.errors import WeightsFileError
from multierase.interop.reading import FOLDER, PICKLE, SAFETENSORS, read
from multierase.interop.sources import SOURCES
from multierase.interop.sources.choice import recognise

ONES = torch.ones(2, 3)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_safetensors_are_read_with_their_header(tmp_path):
    path = tmp_path / "x.pt"  # a file's name says nothing
    save_file({"a": ONES, "scalar": torch.tensor(2.0)}, path, {"format": "pt"})
    found = read(path)
    assert (found.container, found.metadata) == (SAFETENSORS, {"format": "pt"})
    assert torch.equal(found.tensors["a"], ONES)
    assert len(found.sha256) == 64


@pytest.mark.parametrize("new", [True, False])
def test_pickles_are_read_by_their_groups(tmp_path, new):
    path = tmp_path / "x.safetensors"
    value = {
        "a": ONES,
        "unet": {"b": ONES, "inner": {"c": ONES}, 3: ONES},
        "epoch": 7,
        "optimizer": {"state": [1, 2]},
    }
    torch.save(value, path, _use_new_zipfile_serialization=new)
    found = read(path)
    assert found.container == PICKLE
    assert {name: sorted(group) for name, group in found.groups.items()} == {
        "": ["a"],
        "unet": ["b", "inner.c"],
    }
    assert found.count == 3


@pytest.mark.parametrize("how", ["new", "old", "plain"])
def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(tmp_path, how):
    path, trace = tmp_path / "x.pt", tmp_path / "trace"
    value = {"unet": {"a": ONES}, "more": Hostile(trace)}
    if how == "plain":
        path.write_bytes(pickle.dumps(value, protocol=2))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how == "new")
    with pytest.raises(WeightsFileError, match="wants to run code") as error:
        read(path)
    assert ("_load_from_bytes" if how == "plain" else "posix.mkdir") in str(error.value)
    assert "nothing in it was executed" in str(error.value)
    assert not trace.exists()

    torch.load(path, weights_only=False) if how != "plain" else pickle.loads(path.read_bytes())
    assert trace.exists()  # it was hostile


def test_other_objects_are_refused_too(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(WeightsFileError, match="asks for 'torch.nn.modules.linear.Linear'"):
        read(path)
    torch.save({"a": np.float64(1)}, path)
    with pytest.raises(WeightsFileError, match="numpy"):
        read(path)


def test_what_is_not_whole_is_an_error(tmp_path):
    path = tmp_path / "x"
    save_file({"a": ONES}, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WeightsFileError, match="not a whole safetensors file"):
        read(path)

    torch.save({"a": ONES}, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(WeightsFileError, match="not a whole torch pickle"):
        read(path)

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")
    with pytest.raises(WeightsFileError, match="not a whole torch pickle"):
        read(path)

    for data in (b"", b"GGUF\x03\x00\x00\x00", b"a text of some length"):
        path.write_bytes(data)
        with pytest.raises(WeightsFileError, match="neither a safetensors file nor a torch pickle"):
            read(path)


def test_what_is_not_there_or_no_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read(tmp_path / "pipe")
    with pytest.raises(WeightsFileError, match="a folder without weights"):
        read(tmp_path)


def test_a_folder_is_read_by_its_parts(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    for part in ("unet", "vae", "scheduler"):
        (tmp_path / part).mkdir()
    save_file({"a": ONES}, tmp_path / "unet" / "model-00001-of-00002.safetensors")
    save_file({"b": ONES}, tmp_path / "unet" / "model-00002-of-00002.safetensors")
    save_file({"a": ONES / 2}, tmp_path / "unet" / "model.fp16.safetensors")  # another variant
    torch.save({"a": ONES}, tmp_path / "unet" / "model.bin")
    torch.save({"c": ONES}, tmp_path / "vae" / "model.bin")
    found = read(tmp_path)
    assert found.container == FOLDER
    assert sorted(found.groups) == ["unet", "vae"]
    assert sorted(found.groups["unet"]) == ["a", "b"]
    assert torch.equal(found.groups["unet"]["a"], ONES)

    before = found.sha256
    save_file({"b": 2 * ONES}, tmp_path / "unet" / "model-00002-of-00002.safetensors")
    assert read(tmp_path).sha256 != before
    save_file({"a": ONES}, tmp_path / "unet" / "other.safetensors")
    with pytest.raises(WeightsFileError, match="in two files"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "x" * 2**21])
def test_a_folders_configuration_is_read_with_care(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(WeightsFileError, match="adapter_config.json"):
        read(tmp_path)


# Recognising.


def of(tmp_path, value, metadata=None):
    save_file(value, tmp_path / "x", metadata)
    return read(tmp_path / "x")


def test_an_unknown_format_says_what_was_seen_and_what_is_known(tmp_path):
    with pytest.raises(WeightsFileError) as error:
        recognise(of(tmp_path, {"some.layer": ONES, "other.layer": ONES.clone()}))
    told = str(error.value)
    assert "of no format that is known: a safetensors with 2 tensors" in told
    assert "'other.layer'" in told
    for source in SOURCES.values():
        assert source.writers in told


@pytest.mark.parametrize(
    ("names", "metadata", "told"),
    [
        (
            ["x.attn2.to_k.weight"],
            {"multierase": '{"format_version": 2}'},
            "copy it into the library",
        ),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], {}, "text encoder's weights"),
        (["lora_unet_a.hada_w1_a"], {}, "the kind LoHa"),
        (["lora_unet_a.lokr_w1"], {}, "the kind LoKr"),
        (["lora_unet_a.dora_scale", "lora_unet_a.lora_up.weight"], {}, "the kind DoRA"),
        (["base_model.model.a.lora_magnitude_vector"], {}, "the kind DoRA"),
        (["0_for_mat1", "0_for_mat2"], {}, "cache of MACE's"),
    ],
)
def test_what_is_known_and_not_imported_is_named(tmp_path, names, metadata, told):
    with pytest.raises(WeightsFileError, match=told):
        recognise(of(tmp_path, {name: ONES.clone() for name in names}, metadata))
