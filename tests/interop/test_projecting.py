"""What is left of another tool's increment in a concept's own directions, and what that is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peers_by_hand as peers
import pytest
import torch
from compositions import assert_bits, snapshot
from peers_by_hand import factors, numbers, random_deltas, trained

from multierase import Composer, KeepList, Library, TaggedPrompt, Workspace, save_increment
from multierase.errors import ConceptRefused, WeightsFileError
from multierase.increments.provenance import step_in_words
from multierase.increments.value import Factors, times
from multierase.interop.importing import import_file
from multierase.interop.projecting import RIDGE, projected
from multierase.interop.sources import ImportSettings
from multierase.separation.directions import Directions

PROJECT = ImportSettings(project=True)
REAL = Path(__file__).parents[3] / "shared" / "peer-files"
THERE = pytest.mark.skipif(not REAL.is_dir(), reason=f"no files of peers in {REAL}")
K = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def esd_file(tiny, tmp_path):
    return peers.esd(trained(tiny, random_deltas(tiny, "esd-x")), tmp_path / "esd")


def test_it_is_the_formula():
    delta, own = numbers(5, 8, scale=1.0), numbers(8, 4, seed=1, scale=1.0)
    basis = numbers(8, 2, seed=2, scale=1.0)
    found, share = projected(
        {K: delta}, {K: "tokens"}, {"tokens": own}, {"tokens": Directions(basis, 1.0)}
    )
    e, b = own.double().numpy(), basis.double().numpy()
    c = e @ e.T
    inner = b.T @ c @ b
    inner += RIDGE * inner.diagonal().max() * np.eye(2)
    a = delta.double().numpy() @ c @ b @ np.linalg.inv(inner)
    np.testing.assert_allclose(found[K].dense().numpy(), a @ b.T, atol=1e-5)

    left = ((delta.numpy() - a @ b.T) @ e) ** 2
    assert share == pytest.approx(1 - left.sum() / ((delta.numpy() @ e) ** 2).sum(), abs=1e-5)


def test_what_lies_in_the_directions_stays():
    basis, own = numbers(8, 2, scale=1.0), numbers(8, 6, seed=1, scale=1.0)
    delta = numbers(5, 2, seed=2, scale=1.0) @ basis.T
    directions = {"tokens": Directions(basis, 1.0)}
    found, share = projected({K: delta}, {K: "tokens"}, {"tokens": own}, directions)
    assert share > 0.99999
    torch.testing.assert_close(found[K].dense(), delta, atol=2e-2, rtol=2e-2)


def test_only_what_reads_the_text_is_left_and_shares_one_factor(tiny, esd_file, tmp_path):
    whole = import_file(tiny, esd_file, "Noto")
    part = import_file(tiny, esd_file, "Noto", PROJECT)
    assert whole.provenance.separation.kept_exactly == ()
    assert set(part.deltas) == set(tiny.readers) < set(whole.deltas)
    assert all(isinstance(delta, Factors) for delta in part.deltas.values())
    assert len({id(delta.down) for delta in part.deltas.values()}) == 1
    sizes = [
        save_increment(i, tmp_path / f"{n}").stat().st_size for n, i in enumerate((part, whole))
    ]
    assert sizes[0] < sizes[1] / 2

    made, (step,) = part.provenance, part.history
    assert (step["projected"], 0 < step["effect_kept"] < 1) == (True, True)
    assert step["dropped"] == len(whole.deltas) - len(part.deltas)
    assert (made.scope, made.separation.kept_exactly) == ("esd-x-strict", ("",))
    assert made.separation.directions["tokens"]["rank"] == float(
        next(iter(part.deltas.values())).up.shape[1]
    )


def test_what_is_said_to_be_kept_exactly_is(tiny, esd_file):
    part = import_file(tiny, esd_file, "Noto", PROJECT)
    assert part.provenance.separation.kept_exactly == ("",)
    empty, own = tiny.tokens([""]).T, part.grams["tokens"]
    for delta in part.deltas.values():
        assert times(delta, empty).norm() < 1e-4 * times(delta, own).norm()

    # Two prompts take up all that so small a text encoder can say.
    with pytest.raises(ConceptRefused, match="--kind none imports it"):
        import_file(tiny, esd_file, "Noto", PROJECT, keep=["a dog"])
    import_file(tiny, esd_file, "Noto", keep=["a dog"])


def test_one_concepts_part_of_a_set(tiny, tmp_path):
    path = peers.esd(trained(tiny, random_deltas(tiny, "esd-x-strict")), tmp_path / "uce")
    settings = ImportSettings(also=("Twemoji", "Firefox"), project=True)
    part = import_file(tiny, path, "Noto", settings)
    assert part.also == ()
    assert part.provenance.prompts == ("Noto",)
    assert part.history[0]["concepts"] == ["Noto", "Twemoji", "Firefox"]
    told = step_in_words(part.history[0])
    assert "a set of 3 concepts, this one's part alone, with" in told
    whole = import_file(tiny, path, "Noto", ImportSettings(also=("Twemoji", "Firefox")))
    assert step_in_words(whole.history[0]).endswith("a set of 3 concepts, not separable")


def test_nothing_that_reads_the_text_is_an_error(tiny, tmp_path):
    path = peers.esd(trained(tiny, random_deltas(tiny, "esd-u")), tmp_path / "esd-u")
    with pytest.raises(WeightsFileError, match="esd-u: it changes nothing that reads the text"):
        import_file(tiny, path, "nudity", PROJECT)


def test_a_sets_other_concepts_are_not_kept_either(tiny, tmp_path):
    """The keep-list says what to keep, unless it is about something that is erased."""
    path = peers.esd(trained(tiny, random_deltas(tiny, "esd-x-strict")), tmp_path / "uce")
    increments = {
        "Noto": import_file(tiny, path, "Noto", ImportSettings(also=("Twemoji",))),
        "alone": import_file(tiny, path, "Noto").named("alone"),
    }
    listed = [TaggedPrompt("a cat by Twemoji", frozenset({"twemoji"})), TaggedPrompt("a dog")]
    keep = KeepList.of(tiny, listed, ["Noto", "Twemoji"])
    asked = []

    class Watched:
        prompts, dictionaries = 2, ()

        def lists(self, stream, erased):
            asked.append(sorted(erased))
            return keep.lists(stream, erased)

    for name in increments:
        composer = Composer(tiny, increments, keep=Watched())
        with composer.erasing(name):
            pass
        composer.close()
    assert asked[0] == ["Noto", "Twemoji"]
    assert asked[1] == ["Noto", "alone"]  # by its new name and its old one


def test_two_imports_and_one_of_ours_are_composed_and_restored(tiny, noto, esd_file, tmp_path):
    before = snapshot(tiny)
    found = factors(tiny, tiny.scope_parameters("esd-x-strict"), 2)
    library = Library(tmp_path / "library", create=True)
    library.save(noto)
    workspace = Workspace(library, tiny, solve="joint")
    spm = peers.kohya(found, tmp_path / "spm", alpha=1.0)
    workspace.import_file(spm, "Twemoji")
    workspace.import_file(esd_file, "Firefox", PROJECT)
    assert sorted(workspace.library) == ["Firefox", "Noto", "Twemoji"]

    states = {}
    for erased in (["Noto"], ["Noto", "Twemoji"], ["Firefox", "Noto", "Twemoji"]):
        workspace.restore_all()
        workspace.erase(*erased)
        states[tuple(erased)] = snapshot(tiny)
    workspace.restore("Firefox")
    assert_bits(tiny, states["Noto", "Twemoji"])
    workspace.restore("Twemoji")
    assert_bits(tiny, states["Noto",])
    workspace.restore_all()
    assert_bits(tiny, before)


# Real files, made by their authors' own code.


@pytest.fixture(scope="module")
def real(emoji, tmp_path_factory):
    """Import the three of them, as they are and projected."""
    workspace = Workspace(tmp_path_factory.mktemp("real") / "library", emoji, create=True)
    three = REAL / "uce-Twemoji-Noto-Firefox.safetensors"
    alone = REAL / "esd-Noto-from-Noto-esdxstrict.safetensors"
    workspace.import_file(alone, "Noto")
    workspace.import_file(three, "Twemoji", ImportSettings(also=("Noto", "Firefox")))
    workspace.import_file(three, "Firefox", ImportSettings(also=("Noto", "Twemoji"), project=True))
    return workspace


@pytest.mark.slow
@THERE
def test_real_files_compose_and_are_restored(emoji, real):
    before = snapshot(emoji)
    assert real.composer.solve == "joint"
    (dictionary,) = real.keep_list.dictionaries
    assert dictionary.kind.name == "studio"
    # Also where nothing was separated, the settings say how people speak of it.
    for name in ("Noto", "Twemoji"):
        made = real.library[name].provenance
        assert made.separation.kept_in_mean is None
        assert set(made.settings["forms"]) <= set(dictionary.forms)
    real.erase("Noto", "Twemoji")
    both = snapshot(emoji)
    real.erase("Firefox")
    real.restore("Firefox")
    assert_bits(emoji, both)
    real.restore_all()
    assert_bits(emoji, before)


@pytest.mark.slow
@THERE
def test_real_files_say_what_they_do(real):
    made = {name: real.library[name] for name in real.library}
    assert {name: one.provenance.method for name, one in made.items()} == dict.fromkeys(
        made, "unknown"
    )
    certificates = {name: one.provenance.certificate for name, one in made.items()}
    # ESD's two hundred iterations on the bare name leave sentences as they were; UCE's do not.
    assert certificates["Noto"]["gone"] == 0
    assert certificates["Twemoji"]["sentences"] == 36
    assert certificates["Twemoji"]["gone"] > 0.2
    siblings = [q["prompt"] for q in certificates["Twemoji"]["questions"] if q["about"] != "own"]
    assert not any(name in prompt for name in ("Noto", "Firefox") for prompt in siblings)
    # What is projected moves the rest less.
    assert certificates["Firefox"]["kept"]["moved"] < certificates["Twemoji"]["kept"]["moved"] / 2

    certified = real.certify("Twemoji")
    assert certified["concepts"]["Twemoji"]["erased"] is True
