"""A peer's file in, out in every format, and in again: the same increment."""

from __future__ import annotations

import peers_by_hand as peers
import pytest
import torch
from families import tiny_model
from peers_by_hand import factors, random_deltas, trained

from multierase import Workspace
from multierase.interop.importing import import_file
from multierase.interop.sources import ImportSettings
from multierase.interop.targets import TARGETS, ExportSettings

QUICK = ExportSettings(quick=True)
EXACT = {"diff": True, "kohya": False, "diffusers": False}
"""Formats of what is added to a base; whether every bit is there again."""


@pytest.fixture
def workspace(tiny, tmp_path):
    """A workspace with the increment of a LoRA, which is erased."""
    found = factors(tiny, tiny.scope_parameters("esd-x-strict"), 2)
    workspace = Workspace(tmp_path / "library", tiny, create=True)
    workspace.import_file(peers.kohya(found, tmp_path / "spm", alpha=1.0), "Noto")
    workspace.erase("Noto")
    return workspace


@pytest.mark.parametrize("to", sorted(EXACT))
def test_what_is_added_to_a_base_comes_back(workspace, tmp_path, to):
    before = workspace.library["Noto"]
    out = tmp_path / ("out" + "".join(TARGETS[to].suffixes[:1]))
    workspace.export(out, to, QUICK)
    workspace.restore_all()
    again = import_file(workspace.model, out, "Noto")
    if to != "diffusers":
        assert again.history[0]["from"].endswith("exported by multierase")
    assert again.deltas.keys() == before.deltas.keys()
    for name in before.deltas:
        if EXACT[to]:
            assert torch.equal(again.dense(name), before.dense(name))
        torch.testing.assert_close(again.dense(name), before.dense(name), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("to", ["pipeline", "unet", "single-file"])
def test_a_whole_model_comes_back_as_what_was_added(workspace, tmp_path, to):
    model = workspace.model
    composed = {name: model.parameters()[name].clone() for name in workspace.library["Noto"].deltas}
    out = tmp_path / ("out" + "".join(TARGETS[to].suffixes[:1]))
    workspace.export(out, to, QUICK)
    workspace.restore_all()
    again = import_file(model, out, "Noto")
    assert again.deltas.keys() == composed.keys()
    for name, weight in composed.items():
        assert torch.equal(again.dense(name), weight - model.parameters()[name])


def test_another_familys_dense_file_comes_back(tokenizer, tmp_path):
    model = tiny_model("flux", tokenizer)
    weights = trained(model, random_deltas(model, "text-input"))
    workspace = Workspace(tmp_path / "library", model, create=True)
    workspace.import_file(peers.esd(weights, tmp_path / "esd"), "Noto")
    before = workspace.library["Noto"]
    workspace.erase("Noto")
    workspace.export(tmp_path / "out.safetensors", "diff", QUICK)
    workspace.restore_all()
    again = import_file(model, tmp_path / "out.safetensors", "Noto")
    for name in before.deltas:
        assert torch.equal(again.dense(name), before.dense(name))


def test_a_projected_one_comes_back_in_the_same_directions(workspace, tmp_path):
    """Its factors are in the directions already: projecting it again changes little."""
    model = workspace.model
    workspace.restore_all()
    esd = peers.esd(trained(model, random_deltas(model, "esd-x")), tmp_path / "esd")
    workspace.import_file(esd, "Noto", ImportSettings(project=True), overwrite=True)
    before = workspace.library["Noto"]
    workspace.erase("Noto")
    workspace.export(tmp_path / "out.safetensors", "kohya", QUICK)
    workspace.restore_all()
    again = import_file(model, tmp_path / "out.safetensors", "Noto", ImportSettings(project=True))
    assert again.history[0]["effect_kept"] > 0.9
    for name in before.deltas:
        part = (again.dense(name) * before.dense(name)).sum() / before.dense(name).square().sum()
        assert part > 0.8


def test_a_set_that_was_exported_names_its_concepts(workspace, tmp_path, caplog):
    workspace.export(tmp_path / "out.safetensors", "diff", QUICK)
    workspace.restore_all()
    import_file(workspace.model, tmp_path / "out.safetensors", "Twemoji")
    assert "says that it erases ['noto']" in caplog.text
