"""Others' files in and out through the page: hostile ones, names of elsewhere, every format."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
import urllib.request
import zipfile
from pathlib import Path

import peers_by_hand as peers
import pytest
import torch
from by_hand import container
from compositions import random_increment
from families import tiny_sd
from peers_by_hand import random_deltas, trained

from multierase import Library, Workspace, from_pipeline
from multierase.app.exchanging import bring_in, discard, hand_out, recognised
from multierase.app.session import Session
from multierase.errors import (
    AlreadyThere,
    ConceptRefused,
    UnknownConcept,
    UsageError,
    WeightsFileError,
)
from multierase.interop.importing import import_file
from multierase.interop.sources import ImportSettings
from multierase.interop.targets import TARGETS, ExportSettings

ERASED = {"dali": 1.0, "van gogh": 0.5}
QUICK = ExportSettings(quick=True)
NO_KIND = ImportSettings(kind="none")
HTML = "<b onclick=alert(1)>dali"


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def session(tiny, tmp_path):
    """A page over two concepts, one in factors and one dense, which are summed."""
    library = Library(tmp_path / "library", create=True)
    for seed, name in enumerate(ERASED):
        increment = random_increment(tiny, name, tiny.exact_scope, seed, factored=not seed)
        library.save(increment)

    return Session(Workspace(library, tiny, solve="sum"))


@pytest.fixture
def uploads(tmp_path):
    """A folder of uploaded files, each in one of its own, as Gradio keeps them."""
    folder = tmp_path / "uploads"
    (folder / "0123").mkdir(parents=True)

    return folder


@pytest.fixture
def peer(tiny, uploads):
    """An uploaded file of ESD's."""
    deltas = random_deltas(tiny, "esd-x", seed=7)

    return peers.esd(trained(tiny, deltas), uploads / "0123" / "esd.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def composed(session: Session) -> dict[str, torch.Tensor]:
    """Return what the set adds to the base, by a composer's weights."""
    model, workspace = session.workspace.model, session.workspace
    base = {name: own.detach().clone() for name, own in model.parameters().items()}
    with session.lock:
        workspace.set(ERASED)
        after = {name: own.detach().clone() for name, own in model.parameters().items()}
        workspace.restore_all()

    return {name: after[name] - base[name] for name in base if not after[name].equal(base[name])}


def unpacked(path: Path, folder: Path) -> Path:
    """Return a downloaded file as its user has it: a zip file is a folder of its name."""
    if path.suffix != ".zip":
        return path
    with zipfile.ZipFile(path) as packed:
        packed.extractall(folder)
    assert [inner.name for inner in folder.iterdir()] == [path.stem]

    return folder / path.stem


# Out.


@pytest.mark.parametrize("to", sorted(set(TARGETS) - {"hub-folder"}))
def test_every_format_comes_back_as_what_is_composed(session, to, tmp_path):
    expected, out = composed(session), tmp_path / "out"
    out.mkdir()
    found = hand_out(session, ERASED, to, QUICK, out)
    assert found.path.name.startswith(f"without_dali_van-gogh.{to}")
    assert len([*out.rglob("*.*")]) == 1  # nothing beside what is downloaded

    session.workspace.restore_all()
    again = import_file(session.workspace.model, unpacked(found.path, tmp_path / "in"), "again")
    assert again.deltas.keys() == expected.keys()
    for name, delta in expected.items():
        torch.testing.assert_close(again.dense(name), delta, rtol=0, atol=2e-5)


def test_a_folder_for_a_hub_is_a_library(session, tmp_path):
    found = hand_out(session, ERASED, "hub-folder", QUICK, tmp_path)
    again = Library(unpacked(found.path, tmp_path / "in"))
    assert sorted(again) == sorted(ERASED)
    assert again["dali"] == session.workspace.library["dali"]


def test_what_is_said_of_a_file_is_what_the_library_says(session, tmp_path):
    settings = ExportSettings(rank=1, precision="float16", quick=True)
    found = hand_out(session, ERASED, "diffusers", settings, tmp_path)
    session.workspace.set(ERASED)
    written = session.workspace.export(tmp_path / "direct", "diffusers", settings)
    assert f"loses {written['error']:.1e} of" in " ".join(found.said.facts)
    assert TARGETS["diffusers"].about in found.said.facts[0]


def test_the_certificate_is_asked_of_the_set_and_of_the_file(tiny, noto, tmp_path):
    asked = [{"prompt": "a church by Noto", "context": "a church", "about": "own"}]
    certified = {"sentences": 1, "gone": 0.0, "questions": asked}
    library = Library(tmp_path / "library", create=True)
    library.save(_with(noto, certificate=certified))
    session = Session(Workspace(library, tiny, solve="sum"))

    words = hand_out(session, {"Noto": 1.0}, "diff", ExportSettings(), tmp_path).said.facts
    (here,) = [line for line in words if line.startswith("The set as it is composed here: gone in")]
    (there,) = [line for line in words if line.startswith("The set as the file has it: gone in")]
    assert here.split(": ", 1)[1] == there.split(": ", 1)[1]  # this format is exact


@pytest.mark.parametrize(
    ("erased", "to", "error", "words"),
    [
        ({}, "kohya", UsageError, "nothing is erased"),
        ({}, "pipeline", UsageError, "nothing is erased"),
        ({"dali": 0.0}, "diff", UsageError, "nothing is erased"),
        ({"dali": 1.0}, "../kohya", UsageError, "unknown format"),
        ({"dali": 1.0}, "/etc/passwd", UsageError, "unknown format"),
        ({"../dali": 1.0}, "diff", UnknownConcept, "not in library"),
        ({"/etc/passwd": 1.0}, "diff", UnknownConcept, "not in library"),
        ({HTML: 1.0}, "diff", UnknownConcept, "not in library"),
        ({"dali": float("nan")}, "diff", ValueError, "finite"),
        (["dali"], "diff", UsageError, "strengths by concept"),
    ],
)
def test_what_the_page_does_not_offer_is_refused_and_leaves_no_file(
    session, tmp_path, erased, to, error, words
):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(error, match=words):
        hand_out(session, erased, to, QUICK, out)
    assert [*out.iterdir()] == []


def test_what_is_warned_of_is_said_and_nothing_that_others_do(session, tmp_path, monkeypatch):
    export = session.workspace.export

    def warning(*arguments):
        other = threading.Thread(target=logging.getLogger("multierase").warning, args=["theirs"])
        other.start()
        other.join()
        logging.getLogger("multierase.interop").warning("ours %d", 1)
        return export(*arguments)

    monkeypatch.setattr(session.workspace, "export", warning)
    assert "ours 1" in hand_out(session, ERASED, "diff", QUICK, tmp_path).said.warnings
    assert "theirs" not in hand_out(session, ERASED, "diff", QUICK, tmp_path).said.warnings
    assert logging.getLogger("multierase").handlers == []


def test_many_concepts_have_a_short_name(tiny, tmp_path):
    library = Library(tmp_path / "library", create=True)
    names = [f"somebody with a long name, number {i}" for i in range(4)]
    for seed, name in enumerate(names):
        library.save(random_increment(tiny, name, "esd-x-strict", seed))
    session = Session(Workspace(library, tiny, solve="sum"))
    found = hand_out(session, dict.fromkeys(names, 1.0), "diff", QUICK, tmp_path)
    assert found.path.name == "without_4-concepts.diff.safetensors"


# In.


def test_a_peers_file_becomes_an_increment_and_is_removed(session, peer, uploads, tiny):
    assert "ESD" in recognised(peer, uploads)
    direct = import_file(tiny, peer, "monet", NO_KIND)
    said = bring_in(session, peer, uploads, " monet ", NO_KIND)
    saved = session.workspace.library["monet"]
    assert {name: saved.dense(name).tolist() for name in saved.deltas} == {
        name: direct.dense(name).tolist() for name in direct.deltas
    }
    assert said.facts[0].startswith("monet: imported from esd.safetensors: ")
    assert said.facts[-1] == "Saved as monet.safetensors."
    assert [*uploads.iterdir()] == []
    assert session.compose({}).is_base is True


def test_a_files_warning_reaches_whoever_has_no_terminal(session, tiny, uploads):
    weights = trained(tiny, random_deltas(tiny, "esd-x"))
    path = peers.esd(weights, uploads / "0123" / "x.safetensors", peers.HEADER)
    said = bring_in(session, path, uploads, "monet", NO_KIND)
    assert any("noto" in text for text in said.warnings)


def test_a_name_of_html_is_a_name(session, peer, uploads):
    name = "<img src=x onerror=alert(1)>"
    said = bring_in(session, peer, uploads, name, NO_KIND)
    path = session.workspace.library.path(name)
    assert path.parent == session.workspace.library.folder
    assert path.is_file()
    assert name in session.concepts()
    assert said.facts[0].startswith(name)  # as text; whoever shows it escapes it


def _pickle(path: Path, trace: Path, tokenizer) -> None:
    torch.save({"unet": {"a": torch.ones(1)}, "more": Hostile(trace)}, path)


def _cut(path: Path, trace: Path, tokenizer) -> None:
    path.write_bytes(container(json.dumps({"a": {"dtype": "F32"}}), b"")[:-5])


def _huge_header(path: Path, trace: Path, tokenizer) -> None:
    path.write_bytes((2**60).to_bytes(8, "little") + b'{"a": 1}')


def _page_of_html(path: Path, trace: Path, tokenizer) -> None:
    path.write_text("<html><script>alert(1)</script></html>")


def _another_base(path: Path, trace: Path, tokenizer) -> None:
    other = from_pipeline(tiny_sd(tokenizer, version=2), "other")
    peers.esd(trained(other, random_deltas(other, "esd-x")), path)


HOSTILE = [_pickle, _cut, _huge_header, _page_of_html, _another_base]


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_file_is_refused_and_removed_and_nothing_is_written(
    session, uploads, tokenizer, tmp_path, make
):
    path, trace = uploads / "0123" / "x.safetensors", tmp_path / "trace"
    make(path, trace, tokenizer)
    before = contents(session.workspace.library.folder)
    with pytest.raises(WeightsFileError, match="x.safetensors") as told:
        bring_in(session, path, uploads, "monet", NO_KIND)

    assert str(tmp_path) not in str(told.value)  # where uploads lie is nobody's affair
    assert not path.exists()
    assert not trace.exists()
    assert contents(session.workspace.library.folder) == before
    assert session.concepts() == sorted(ERASED)
    assert session.compose({}).is_base is True


@pytest.mark.parametrize("make", HOSTILE[:-1], ids=lambda make: make.__name__)
def test_it_is_refused_as_soon_as_it_is_dropped(uploads, tokenizer, tmp_path, make):
    path, trace = uploads / "0123" / "x.safetensors", tmp_path / "trace"
    make(path, trace, tokenizer)
    with pytest.raises(WeightsFileError):
        recognised(path, uploads)
    assert not path.exists()
    assert not trace.exists()


@pytest.mark.parametrize("do", ["recognise", "import", "discard"])
@pytest.mark.parametrize("where", ["outside", "above", "link", "folder", "nothing", "empty"])
def test_no_path_reaches_outside_the_uploads(session, peer, uploads, tmp_path, do, where):
    outside = peer.rename(tmp_path / "mine.safetensors")
    link = uploads / "0123" / "link.safetensors"
    link.symlink_to(outside)
    path = {
        "outside": outside,
        "above": uploads / "0123" / ".." / ".." / "mine.safetensors",
        "link": link,
        "folder": uploads / "0123",
        "nothing": uploads / "0123" / "nothing.safetensors",
        "empty": "",
    }[where]

    if do == "discard":
        discard(path, uploads)
    elif do == "recognise":
        with pytest.raises(UsageError, match="give a file"):
            recognised(path, uploads)
    else:
        with pytest.raises(UsageError, match="give a file"):
            bring_in(session, path, uploads, "monet", NO_KIND)
    assert outside.is_file()
    assert session.concepts() == sorted(ERASED)


@pytest.mark.parametrize(
    ("concept", "settings", "error", "words"),
    [
        ("", NO_KIND, ValueError, "needs a name"),
        ("../monet", NO_KIND, ValueError, "not allowed"),
        ("/tmp/monet", NO_KIND, ValueError, "not allowed"),
        ("monet\x1b[2J", NO_KIND, ValueError, "not allowed"),
        ("dali", NO_KIND, AlreadyThere, "already"),
        ("monet", ImportSettings(kind="/etc/passwd"), UsageError, "unknown kind"),
        ("monet", ImportSettings(kind="../kind.yaml"), UsageError, "unknown kind"),
        ("monet", ImportSettings(kind="none", refined="/etc"), UsageError, "command line"),
    ],
)
def test_a_request_that_cannot_be_keeps_the_upload(
    session, peer, uploads, concept, settings, error, words
):
    before = contents(session.workspace.library.folder)
    with pytest.raises(error, match=words):
        bring_in(session, peer, uploads, concept, settings)
    assert peer.is_file()
    assert contents(session.workspace.library.folder) == before


def test_replacing_has_to_be_asked_for(session, peer, uploads):
    before = session.workspace.library["dali"]
    bring_in(session, peer, uploads, "dali", NO_KIND, overwrite=True)
    assert session.workspace.library["dali"] != before


def test_a_file_that_is_cleared_is_removed(peer, uploads):
    discard(peer, uploads)
    assert not peer.exists()
    discard(None, uploads)


@pytest.mark.slow
def test_a_concept_that_the_base_does_not_draw_keeps_the_upload(emoji, uploads, tmp_path):
    weights = trained(emoji, random_deltas(emoji, "esd-x-strict"))
    path = peers.esd(weights, uploads / "0123" / "x.safetensors")
    session = Session(Workspace(tmp_path / "library", emoji, create=True))
    with pytest.raises(ConceptRefused):
        bring_in(session, path, uploads, "<img src=x onerror=alert(1)>", ImportSettings())
    assert path.is_file()
    assert session.concepts() == []

    said = bring_in(session, path, uploads, "Noto", ImportSettings())
    assert any("unseen sentences" in text for text in said.facts)


# As somebody asks who has no browser.


def asked(address: str, name: str, *data: object) -> str:
    """Ask the page's server for a handler by its name, and return what it answers."""
    where = f"{address.rstrip('/')}/gradio_api/call/{name}"
    body = json.dumps({"data": data}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(where, body, headers)) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{where}/{event}") as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_whoever_names_a_path_of_this_machine_gets_nothing(served, library_of_emoji, tmp_path):
    mine, before = tmp_path / "mine.safetensors", contents(library_of_emoji)
    mine.write_bytes(b"mine")
    for path in (mine, Path("/etc/passwd"), library_of_emoji / "twemoji.safetensors"):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        answer = asked(served.address, "import", file, "monet", "", "none", False, False)
        assert answer.startswith("event: error")
        assert path.is_file()
    assert contents(library_of_emoji) == before


@pytest.mark.slow
@pytest.mark.parametrize("to", ["../kohya", "/etc/passwd"])
def test_whoever_names_a_format_of_their_own_gets_nothing(served, to):
    answer = asked(served.address, "export", to, "float32", 0, True, {"Twemoji": 1.0})
    assert answer.startswith("event: error")


@pytest.mark.slow
def test_a_set_is_exported_for_whoever_asks(served):
    answer = asked(served.address, "export", "diff", "float32", 0, True, {"Twemoji": 1.0})
    assert answer.startswith("event: complete")
    assert "without_twemoji.diff.safetensors" in answer


def _with(increment, **provenance):
    made = dataclasses.replace(increment.provenance, **provenance)
    return dataclasses.replace(increment, provenance=made)
