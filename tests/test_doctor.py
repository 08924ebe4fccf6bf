"""What is said of an installation, against installations that are made for the test."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from multierase import doctor
from multierase.errors import MultieraseError
from multierase.models.loading import load_base
from multierase.models.sources import EMBEDDED


@pytest.fixture
def installed(monkeypatch):
    """Let these packages be installed, in these versions, and none else."""

    def installed(versions, required=None, gpus=()):
        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(doctor.metadata, "version", version)
        if required is not None:
            monkeypatch.setattr(doctor.metadata, "requires", lambda name: required)
        monkeypatch.setattr(doctor, "_gpus", lambda: list(gpus))

    return installed


def declared():
    """What the installed package itself says that it needs."""
    return [Requirement(line) for line in metadata.requires("multierase")]


def test_this_installation_is_sound():
    found = doctor.examine()
    assert found.problems == ()
    needed = {one.name: str(one.specifier) for one in declared() if one.marker is None}
    assert {one.name: one.needed for one in found.packages} == needed
    assert all(one.installed == metadata.version(one.name) for one in found.packages)
    extras = metadata.metadata("multierase").get_all("Provides-Extra")
    assert [extra.name for extra in found.extras] == extras
    assert found.base.kind == "embedded"
    json.dumps(found.as_dict())


def test_what_is_missing_or_too_old_is_broken_and_says_what_to_type(installed):
    versions = {one.name: metadata.version(one.name) for one in declared() if one.marker is None}
    versions["torch"] = "1.13"
    del versions["einops"]
    installed(versions)
    problems = doctor.examine().problems
    assert len(problems) == 2
    assert any("torch 1.13 is here" in one and "pip install 'torch>=" in one for one in problems)
    assert any("einops is missing: pip install 'einops" in one for one in problems)


def test_a_build_or_a_preview_is_no_older_than_its_version(installed):
    installed({"torch": "2.6.0+cu124", "rich": "14.0rc1"}, ["torch>=2.6", "rich>=13"])
    assert doctor.examine().problems == ()


REQUIRED = [
    "torch>=2.6",
    "ray>=2.9; extra == 'ray'",
    "pytest>=8; extra == 'test'",
    "multierase[ray,parquet]; extra == 'test'",
    "pyarrow>=14; extra == 'parquet'",
]


def test_an_extra_is_installed_if_all_is_that_it_asks_for(installed, monkeypatch):
    installed({"torch": "2.6", "ray": "2.9", "pytest": "8.0", "pyarrow": "13.0"}, REQUIRED)
    monkeypatch.setattr(doctor, "_extras", lambda about: ["ray", "test", "parquet"])
    found = doctor.examine()
    assert {extra.name: extra.lacking for extra in found.extras} == {
        "ray": (),
        "test": ("pyarrow>=14",),
        "parquet": ("pyarrow>=14",),
    }
    assert found.extras[2].install == "pip install 'multierase[parquet]'"
    assert found.problems == ()  # what is optional is not broken


def test_a_program_that_is_not_installed_is_told(monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "metadata", nothing)
    monkeypatch.setattr(doctor.metadata, "requires", nothing)
    found = doctor.examine()
    assert "multierase is not installed" in found.problems[0]
    assert (found.packages, found.extras) == ((), ())


# --- what computes


@pytest.mark.parametrize(
    ("cuda", "gpus", "visible", "device"),
    [
        ("12.8", ("A GPU, 80 GiB",), None, "cuda"),
        ("12.8", ("A GPU, 80 GiB",), "", "cpu"),
        ("12.8", (), None, "cpu"),
        (None, ("A GPU, 80 GiB",), None, "cpu"),
    ],
)
def test_a_gpu_is_used_if_torch_can_and_may(cuda, gpus, visible, device):
    assert doctor.Machine(cuda, gpus, visible, 2, None).device == device


def test_what_torch_was_built_for_is_read_and_not_imported():
    import torch

    assert doctor._cuda_of_torch() == torch.version.cuda


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("from typing import Optional\ncuda: Optional[str] = '12.8'\n", "12.8"),
        ("cuda = None\n", None),
        ("__version__ = '2.6'\ncuda = '11.8'\nhip = None\n", "11.8"),
        ("", None),
    ],
)
def test_torchs_own_file_is_read_in_its_forms(text, cuda, tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(text)
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._cuda_of_torch() == cuda


def test_nothing_heavy_is_imported_and_no_network_is_asked():
    code = (
        "import socket, sys\n"
        "def refused(*_, **__): raise AssertionError('a connection')\n"
        "socket.socket.connect = refused\n"
        "from multierase.doctor import examine\n"
        "examine('nobody/nothing')\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"HF_HUB_OFFLINE": "0"})


# --- bases


def test_the_embedded_bases_are_those_of_the_library():
    for name in EMBEDDED:
        assert doctor.find_base(name).kind == "embedded"
        assert doctor.find_base(name).problem is None
    assert doctor.find_base("suites").kind != "embedded"
    assert doctor.find_base("../emoji").kind != "embedded"


def test_a_folder_is_found_where_it_would_be_loaded(sd_folder):
    found = doctor.find_base(str(sd_folder))
    assert (found.kind, found.found, found.problem) == ("folder", True, None)


def test_a_folder_that_is_not_whole_says_what_it_lacks(sd_folder, tmp_path):
    import shutil

    folder = shutil.copytree(sd_folder, tmp_path / "base")
    shutil.rmtree(folder / "vae")
    [weights] = (folder / "unet").glob("*.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": weights.name}}
    (folder / "unet" / "x.safetensors.index.json").write_text(json.dumps(index))
    problem = doctor.find_base(str(folder)).problem
    assert "lacks unet/one.safetensors, vae/: download or copy it again" in problem
    with pytest.raises(MultieraseError):
        load_base(str(folder), device="cpu")


@pytest.mark.parametrize("index", ["", "[]", "{", '{"a": [1]}'])
def test_a_damaged_index_is_told(index, tmp_path):
    (tmp_path / "model_index.json").write_text(index)
    (tmp_path / "a").mkdir()
    problem = doctor.find_base(str(tmp_path)).problem
    assert (problem is None) == (index == '{"a": [1]}')


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("./missing", "folder"),
        ("/nowhere/at/all", "folder"),
        ("missing", "folder"),
        ("a/b/c", "folder"),
        ("missing.safetensors", "folder"),
    ],
)
def test_a_path_without_a_base_is_broken_as_it_cannot_be_loaded(source, kind):
    found = doctor.find_base(source)
    assert (found.kind, found.found) == (kind, False)
    assert f"no base at {source!r}" in found.problem
    with pytest.raises(FileNotFoundError, match="no base at"):
        load_base(source)


def test_a_single_file_is_looked_at_without_being_loaded(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "good.safetensors")
    (tmp_path / "bad.ckpt").write_bytes(b"\x80\x02}q\x00")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    assert doctor.find_base(str(tmp_path / "good.safetensors")).problem is None
    for name in ("bad.ckpt", "empty.safetensors"):
        assert "no safetensors file" in doctor.find_base(str(tmp_path / name)).problem


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_is_looked_up_in_the_cache_alone(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in doctor.find_base("owner/name").problem
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = doctor.find_base("owner/name")
    assert (found.kind, found.found, found.problem) == ("hub id", False, None)
    assert "no hub id" in doctor.find_base("owner/na--me").problem

    # As the hub's own client lays it out.
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}')
    found = doctor.find_base("owner/name")
    assert found.place == str(snapshot)
    assert "lacks vae/" in found.problem
    (snapshot / "vae").mkdir()
    assert doctor.find_base("owner/name").problem is None


def test_the_cache_is_measured_once(cache):
    blobs = cache / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x").write_bytes(b"x" * 1000)
    (cache / "models--a--b" / "link").symlink_to(blobs / "x")
    found = doctor.examine().cache
    assert (found.bytes, found.models) == (1000, 1)
