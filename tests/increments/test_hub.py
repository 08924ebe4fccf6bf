"""A library on a hub, in the layout of its local cache: there is no network here."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from making import make

from multierase import Library
from multierase.errors import UsageError, WriteError

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A cache that holds one repository, with blobs and links to them as a hub's client makes."""
    cache = tmp_path / "cache"
    repository = cache / "models--owner--erased"
    snapshot = repository / "snapshots" / REVISION
    blobs = repository / "blobs"
    for folder in (repository / "refs", snapshot / "diffusers", blobs):
        folder.mkdir(parents=True)
    for ref in ("main", "v1"):
        (repository / "refs" / ref).write_text(REVISION)

    Library(blobs).save(make("van gogh"))
    (snapshot / "van-gogh.safetensors").symlink_to(blobs / "van-gogh.safetensors")
    (snapshot / "README.md").write_text("# a card")
    (snapshot / "diffusers" / "pytorch_lora_weights.safetensors").write_bytes(b"no increment")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    return snapshot


@pytest.mark.parametrize("address", ["hf://owner/erased", "hf://owner/erased@v1"])
def test_a_repository_is_a_library(hub, address):
    library = Library(address)
    assert list(library) == ["van gogh"]
    assert library.problems() == {}
    assert library["van gogh"] == make("van gogh")


def test_nothing_is_written_to_a_hub(hub):
    before = sorted(hub.rglob("*"))
    library = Library("hf://owner/erased")
    for act in (
        lambda: library.save(make("dali")),
        lambda: library.check_targets(["dali"]),
        lambda: library.remove("van gogh"),
        lambda: Library("hf://owner/erased", create=True),
    ):
        with pytest.raises(WriteError, match="on a hub, where nothing is written"):
            act()
    assert sorted(hub.rglob("*")) == before


@pytest.mark.parametrize("address", ["hf://owner/other", "hf://owner/erased@v2"])
def test_what_is_not_there_is_a_clear_error(hub, address):
    with pytest.raises(FileNotFoundError, match=f"cannot read library '{address}'"):
        Library(address)


@pytest.mark.parametrize("address", ["hf://", "hf://owner", "hf://a/b/c", "hf://a/../b"])
def test_an_address_has_a_form(hub, address):
    with pytest.raises(UsageError, match="give hf://owner/name"):
        Library(address)
