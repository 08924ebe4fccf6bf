"""Every method beside ESD and SepME: what it makes is an increment like any other."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import MAKE, tiny_model

from multierase import Composer, Concept, Library, erase
from multierase.methods import METHODS

PEERS = sorted(METHODS.keys() - {"esd", "sepme"})


@pytest.mark.parametrize("method", PEERS)
def test_an_increment_is_stored_applied_and_removed_bit_for_bit(emoji, quick, tmp_path, method):
    settings = dataclasses.replace(quick, known=False, keep=("a cat", "Twemoji"))
    increment = erase(emoji, "Noto", settings, method=method)
    assert increment.norm() > 0
    assert all(torch.isfinite(increment.dense(name)).all() for name in increment.deltas)

    library = Library(tmp_path)
    library.save(increment)
    assert library["Noto"] == increment

    here = emoji.parameters()
    before = {name: value.detach().clone() for name, value in here.items()}
    composer = Composer(emoji, library)
    composer.erase("Noto")
    for name, delta in increment.deltas.items():
        assert torch.equal(here[name], before[name] + delta)
    composer.restore("Noto")
    assert all(torch.equal(here[name], before[name]) for name in before)


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("family", MAKE)
def test_every_family_is_edited(tokenizer, quick, family, method):
    model = tiny_model(family, tokenizer)
    concept = Concept("Noto", ("a cat by Noto", "Noto"), ("a cat", ""))
    settings = dataclasses.replace(quick, keep=("a hat",), known=False)
    increment = erase(model, concept, settings, method=method)
    assert set(increment.deltas) <= set(model.scope_parameters(model.exact_scope))
    assert set(increment.grams) == set(model.streams)
    assert 0 < increment.norm() < float("inf")
