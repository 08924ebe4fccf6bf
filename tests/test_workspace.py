"""One place decides how increments are composed, and what is checked before an erasure."""

from __future__ import annotations

import dataclasses
import os
import threading
from dataclasses import replace

import pytest
import torch
from compositions import assert_bits, increments_of, random_increment, snapshot, twin_of

from multierase import Composer, Concept, EraseSettings, KeepList, Library, TaggedPrompt, Workspace
from multierase.errors import (
    AlreadyThere,
    CheckpointError,
    ModelHeld,
    UnknownConcept,
    UsageError,
    WriteError,
)
from multierase.increments.library import SUFFIX
from multierase.methods import Refusal
from multierase.training import loop
from multierase.training.checkpoint import SUFFIX as PARTIAL

pytestmark = pytest.mark.slow  # trains increments


@pytest.fixture
def library(tiny, tmp_path):
    """Four concepts of random numbers."""
    library = Library(tmp_path / "library", create=True)
    for increment in increments_of(tiny).values():
        library.save(increment)
    return library


@pytest.fixture
def workspace(tiny, tmp_path):
    """An empty library, beside a fresh model."""
    return Workspace(tmp_path / "new", tiny, create=True)


@pytest.fixture
def steps(monkeypatch):
    """Count the training steps."""
    taken, whole = [], loop.descend
    monkeypatch.setattr(loop, "descend", lambda *some: taken.append(1) or whole(*some))
    return taken


def left_over(folder) -> set[str]:
    return {name for name in os.listdir(folder) if not name.endswith(SUFFIX) and name != ".keep"}


# Composing.


def test_the_default_is_joint_where_there_is_a_keep_list(tiny, emoji, library):
    assert Workspace(library, tiny).composer.solve == "sum"  # tiny lists no prompts
    assert Workspace(library, tiny, keep=["a dog"]).composer.solve == "joint"
    assert Workspace(library, tiny, keep=["a dog"], solve="sum").composer.solve == "sum"
    assert Workspace(None, emoji).composer.solve == "joint"
    empty = Workspace(library, tiny, solve="joint").keep_list
    assert torch.equal(empty.gram("tokens", []), KeepList.of(tiny, [], library).gram("tokens", []))


@pytest.mark.parametrize("keep", [(), ("a dog", TaggedPrompt("a cat", frozenset({"dali"})))])
def test_it_composes_as_a_composer_with_the_same_list(tiny, library, keep):
    workspace = Workspace(library, tiny, keep=keep)
    workspace.set({"dali": 1.0, "van gogh": 0.5})
    ours = snapshot(tiny)
    workspace.restore_all()

    tagged = [TaggedPrompt(one) if isinstance(one, str) else one for one in keep]
    listed = KeepList.of(tiny, tagged, library) if keep else None
    composer = Composer(tiny, library, keep=listed)
    composer.set({"van gogh": 0.5, "dali": 1.0})
    assert_bits(tiny, ours)
    composer.close()


def test_its_calls_are_the_composers(tiny, library):
    base, workspace = snapshot(tiny), Workspace(library, tiny)
    workspace.erase("dali", strength=0.5)
    workspace.erase("monet")
    assert workspace.erased == {"dali": 0.5, "monet": 1.0}
    workspace.restore("dali")
    with workspace.erasing("nudity"):
        assert workspace.erased == {"monet": 1.0, "nudity": 1.0}
    assert workspace.erased == {"monet": 1.0}
    workspace.restore_all()
    assert_bits(tiny, base)


def test_nothing_loads_before_it_is_needed(library, monkeypatch):
    monkeypatch.setattr("multierase.workspace.load_base", lambda *_, **__: pytest.fail("loads"))
    workspace = Workspace(library, "some/base")
    assert workspace.library is library
    with pytest.raises(AlreadyThere, match="'dali' is in library"):
        workspace.train("dali")
    with pytest.raises(UsageError, match="unknown method 'edc'"):
        workspace.train("x", method="edc")
    with pytest.raises(UsageError, match="give a library"):
        Workspace(None, "some/base").train("x")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no library folder"):
        Workspace(tmp_path / "missing")
    assert Workspace(tmp_path / "missing", create=True).library.folder.is_dir()


# Training.


def test_trained_increments_are_saved_in_the_order_asked(workspace, quick):
    trained = workspace.train("Twemoji", Concept("Noto"), settings=quick)
    assert [one.increment.concept for one in trained] == ["Twemoji", "Noto"]
    for one in trained:
        assert workspace.library[one.increment.concept] == one.increment
        assert one.path == workspace.library.path(one.increment.concept)
    assert left_over(workspace.library.folder) == set()
    workspace.erase("Noto", "Twemoji")  # they are known at once


@pytest.mark.parametrize("method", ["esd", "sepme", "uce"])
def test_every_method_makes_increments_like_any_other(workspace, quick, tiny, method):
    base = snapshot(tiny)
    (trained,) = workspace.train("Noto", settings=quick, method=method)
    assert trained.increment.provenance.method == method
    workspace.erase("Noto")
    changed = [n for n, p in tiny.parameters().items() if not torch.equal(p, base[n])]
    assert changed == [name for name in base if name in trained.increment.deltas]
    workspace.restore("Noto")
    assert_bits(tiny, base)


def damaged(path):
    path.write_bytes(b"damaged")


def test_a_damaged_target_is_replaced_on_request(workspace, quick, steps):
    path = workspace.library.path("Noto")
    damaged(path)
    with pytest.raises(AlreadyThere, match="no sound increment: replace it with --overwrite"):
        workspace.train("Noto", settings=quick)
    assert path.read_bytes() == b"damaged"
    assert steps == []
    workspace.train("Noto", settings=quick, overwrite=True)
    assert workspace.library["Noto"].concept == "Noto"


def test_an_increment_that_is_there_is_replaced_only_on_request(workspace, quick, steps):
    (first,) = workspace.train("Noto", settings=quick)
    taken, before = len(steps), first.path.read_bytes()
    other = replace(quick, seed=1)
    with pytest.raises(AlreadyThere, match="in library .* already"):
        workspace.train("Twemoji", "Noto", settings=other)
    assert len(steps) == taken
    assert first.path.read_bytes() == before
    (second,) = workspace.train("Noto", settings=other, overwrite=True)
    assert workspace.library["Noto"] == second.increment != first.increment


@pytest.mark.parametrize(
    ("concepts", "error", "message"),
    [
        (["n" * 260], ValueError, "260 characters, at most 200"),
        (["Noto", "noto"], UsageError, "would both be stored as 'noto.safetensors'"),
        (["Noto", "Noto"], UsageError, "given twice"),
        ([], UsageError, "at least one concept"),
        (["folder"], AlreadyThere, "folder"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_targets_are_checked_before_the_first_step(
    workspace, quick, steps, concepts, error, message, overwrite
):
    workspace.library.path("folder").mkdir()
    if overwrite and error is AlreadyThere:
        error = OSError
    with pytest.raises(error, match=message):
        workspace.train(*concepts, settings=quick, overwrite=overwrite)
    assert steps == []
    assert os.listdir(workspace.library.folder) == ["folder.safetensors"]


def test_slugs_that_meet_a_file_of_another_concept(workspace, quick, steps):
    workspace.train("Van Gogh", settings=quick)
    taken = len(steps)
    for overwrite in (False, True):
        with pytest.raises(AlreadyThere, match="holds the concept 'Van Gogh'"):
            workspace.train("van-gogh", settings=quick, overwrite=overwrite)
    assert len(steps) == taken


def test_a_folder_that_is_gone_or_read_only(workspace, quick, steps, monkeypatch):
    def read_only(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(WriteError, match="cannot write into .*: Permission denied"):
            workspace.train("Noto", settings=quick)
    workspace.library.folder.rmdir()
    with pytest.raises(WriteError, match="cannot write into"):
        workspace.train("Noto", settings=quick)
    assert steps == []


def test_training_while_concepts_are_erased_is_refused_at_once(tiny, library, quick, steps):
    workspace = Workspace(library, tiny)
    workspace.erase("dali")
    erased = snapshot(tiny)
    with pytest.raises(ModelHeld, match="concepts are erased"):
        workspace.train("Noto", settings=quick)
    assert steps == []
    assert workspace.erased == {"dali": 1.0}
    assert_bits(tiny, erased)
    workspace.restore_all()
    workspace.train("Noto", settings=quick)


def test_a_save_that_fails_keeps_the_checkpoint(workspace, quick, steps, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Library, "save", full)
        with pytest.raises(OSError, match="No space left"):
            workspace.train("Noto", settings=quick)
    (partial,) = left_over(workspace.library.folder)
    assert partial.endswith(PARTIAL)

    steps.clear()
    (trained,) = workspace.train("Noto", settings=quick, resume=True)
    assert steps == []
    assert left_over(workspace.library.folder) == set()
    assert workspace.library["Noto"] == trained.increment


@pytest.mark.parametrize("name", ["link", "replace"])
def test_a_disk_that_is_full_at_the_last_moment(workspace, quick, steps, monkeypatch, name):
    """Only increments fail: the checkpoint has been written before."""
    whole = getattr(os, name)

    def full(source, target):
        if str(target).endswith(SUFFIX):
            raise OSError(28, "No space left on device")
        whole(source, target)

    if name == "replace":  # a file system without hard links
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "no links")))
    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        patch.setattr(os, "replace", full)
        with pytest.raises(WriteError, match="No space left on device; nothing was changed"):
            workspace.train("Noto", settings=quick)
    (partial,) = left_over(workspace.library.folder)
    assert partial.endswith(PARTIAL)
    steps.clear()
    workspace.train("Noto", settings=quick, resume=True)
    assert steps == []


def test_two_runs_at_once_do_not_overwrite_each_other(tiny, tmp_path, quick):
    spaces = [Workspace(tmp_path / "one", model, create=True) for model in (tiny, twin_of(tiny))]
    barrier, outcomes = threading.Barrier(2), []

    def run(workspace, seed):
        try:
            barrier.wait()
            settings = replace(quick, seed=seed)
            outcomes.append(workspace.train("Noto", settings=settings)[0].increment)
        except AlreadyThere as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(w, i)) for i, w in enumerate(spaces)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [one for one in outcomes if isinstance(one, AlreadyThere)]
    (made,) = (one for one in outcomes if not isinstance(one, AlreadyThere))
    assert len(refused) == 1
    assert Library(tmp_path / "one")["Noto"] == made


def test_a_run_that_came_second_does_not_overwrite(workspace, quick, monkeypatch):
    """The file appears while the second run trains."""
    whole = loop.descend

    def meanwhile(*some):
        workspace.library.path("Noto").write_bytes(b"of the first run")
        whole(*some)

    monkeypatch.setattr(loop, "descend", meanwhile)
    with pytest.raises(AlreadyThere):
        workspace.train("Noto", settings=quick)
    assert workspace.library.path("Noto").read_bytes() == b"of the first run"
    assert [name for name in left_over(workspace.library.folder) if name.endswith(PARTIAL)]


def test_a_refused_concept_beside_others_that_go_on(emoji, tmp_path, quick):
    workspace = Workspace(tmp_path, emoji, keep=["Noto"])
    settings = replace(quick, known=False)
    done = workspace.train("Twemoji", "Noto", "Firefox", settings=settings)
    assert [type(one) is Refusal for one in done] == [False, True, False]
    assert done[1].concept == "Noto"
    assert "nothing is left to erase it by" in done[1].reason
    assert list(workspace.library) == ["Firefox", "Twemoji"]


def test_what_is_wrong_with_the_last_concept_is_said_before_the_first_is_trained(
    workspace, quick, steps
):
    alone = replace(quick, scope="esd-x")  # each in a run of its own
    for method in ("esd", "uce"):
        with pytest.raises(ValueError, match="tokenizer cannot represent '☃'"):
            workspace.train("Noto", "☃", settings=alone, method=method)
    assert steps == []
    assert left_over(workspace.library.folder) == set()
    assert list(workspace.library) == []


def test_keep_prompts_are_for_training_too(emoji, tmp_path, quick):
    tagged = TaggedPrompt("a whale by Noto", frozenset({"noto"}))
    workspace = Workspace(tmp_path, emoji, keep=["a church by Twemoji", tagged])
    settings = replace(quick, known=False)
    for one in workspace.train("Noto", "Firefox", settings=settings):
        kept = one.increment.provenance.separation.kept_exactly
        about = () if one.increment.concept == "Noto" else ("a whale by Noto",)
        assert kept == ("", "a church by Twemoji", *about)


@pytest.mark.parametrize("name", ["Twemojii", "Van Gogh"])
def test_a_concept_that_the_base_does_not_know(emoji, tmp_path, quick, caplog, name):
    workspace = Workspace(tmp_path, emoji)
    workspace.train(name, settings=replace(quick, steps=1))
    assert f"the base's list of prompts has no concept '{name}'" in caplog.text
    assert ("did you mean 'twemoji'" in caplog.text) == (name == "Twemojii")
    caplog.clear()
    workspace.train("Twemoji", Concept("x", ("a hat",)), settings=replace(quick, steps=1))
    assert "knows no concept" not in caplog.text


def test_a_damaged_checkpoint_is_refused_and_kept(workspace, quick, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Library, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            workspace.train("Noto", settings=quick)
    (name,) = left_over(workspace.library.folder)
    partial = workspace.library.folder / name

    with pytest.raises(CheckpointError, match="settings.eta is 3.0 there, 4.0 here"):
        workspace.train("Noto", settings=replace(quick, eta=4.0), resume=True)
    partial.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="delete .* to start over"):
        workspace.train("Noto", settings=quick, resume=True)
    assert partial.exists()
    workspace.train("Noto", settings=quick)  # not resumed, it starts over
    assert not partial.exists()


# Looking at a library.


def test_validate_finds_what_cannot_be_composed(tiny, library):
    other = twin_of(tiny)
    for parameter in other.parameters().values():
        parameter.mul_(1.1)
    sound = library["dali"]
    bad = {
        "other base": random_increment(other, "other base", "esd-x", 0),
        "no gram": replace(sound.named("no gram"), grams={}),
        "too large": replace(
            sound.named("too large"),
            deltas={n: torch.full(s, 3e38) for n, s in sound.shapes.items()},
        ),
    }
    for increment in bad.values():
        library.save(increment)
    library.path("damaged").write_bytes(b"damaged")
    base = snapshot(tiny)

    found = dict(Workspace(library, tiny).validate())
    assert len(found) == 8
    for name in ("dali", "monet", "nudity", "van gogh"):
        assert found[library.path(name)] is None
    for name, message in (
        ("other base", "made for another base"),
        ("no gram", "no Gram matrix"),
        ("damaged", "safetensors"),
    ):
        assert message in found[library.path(name)]
    assert_bits(tiny, base)


def test_validate_finds_what_float16_cannot_hold(tiny, library):
    large = library["dali"]
    large = replace(large.named("large"), deltas={n: d * 1e8 for n, d in large.deltas.items()})
    library.save(large)
    assert dict(Workspace(library, tiny).validate())[library.path("large")] is None
    tiny.pipeline.unet.half()
    found = dict(Workspace(library, tiny).validate())
    assert "infinite in torch.float16" in found[library.path("large")]
    assert found[library.path("dali")] is None


def test_validate_and_erased_concepts(tiny, library):
    workspace = Workspace(library, tiny)
    workspace.erase("dali")
    with pytest.raises(ModelHeld):
        list(workspace.validate())


def test_entangled_concepts_are_those_that_move_each_other(tiny, library, monkeypatch):
    twin = replace(library["dali"].named("twin"))
    library.save(twin)
    workspace = Workspace(library, tiny, keep=["a dog"])
    monkeypatch.setattr(KeepList, "of", lambda *_: pytest.fail("it needs no keep-list"))
    pairs = {(one.erased, one.moved): one.share for one in workspace.entangled(["twin"])}
    assert pairs["dali", "twin"] == pytest.approx(1.0)
    assert pairs["twin", "dali"] == pytest.approx(1.0)
    assert all("twin" in pair for pair in pairs)
    assert "composer" not in vars(workspace)


def test_an_unknown_concept(tiny, library):
    with pytest.raises(UnknownConcept, match="did you mean 'monet'"):
        Workspace(library, tiny).erase("Monett")


def test_settings_say_what_was_used(workspace, quick):
    (trained,) = workspace.train("Noto", settings=quick)
    stored = trained.increment.provenance.settings
    told = EraseSettings(**{**stored, "keep": tuple(stored["keep"])})
    defaults = {"scope": "esd-x-strict", "rank": 0, "start_at": -1.0}
    assert told == dataclasses.replace(quick, **defaults)  # defaults, said
    assert dataclasses.asdict(quick)["steps"] == trained.increment.provenance.stop.steps
