"""Methods: the table, what Python users call, and Unified Concept Editing against numpy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from multierase import Concept, TaggedPrompt, erase, erase_several
from multierase.errors import ConceptRefused, UsageError
from multierase.methods import METHODS, Order, Refusal, as_concepts, method_named
from multierase.methods.uce import RIDGE
from multierase.training.closed_form import aligned

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure


def test_every_method_has_a_paper_and_says_what_it_does(tiny, quick):
    for name, method in METHODS.items():
        assert method.paper.startswith("https://arxiv.org/abs/")
        assert method.about
        increment = erase(tiny, "Noto", quick, method=name)
        assert increment.provenance.method == name
        assert increment.norm() > 0
        # Some edit the values of attention alone.
        assert set(increment.deltas) <= set(tiny.scope_parameters(increment.provenance.scope))


def test_the_table_needs_no_torch():
    code = (
        "import sys; import multierase.methods as m;print(len(m.METHODS), 'torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert out.stdout.split() == [str(len(METHODS)), "False"]


def test_an_unknown_method(tiny, quick):
    with pytest.raises(UsageError, match="unknown method 'sepm'; did you mean 'sepme'"):
        erase(tiny, "Noto", quick, method="sepm")
    assert method_named("uce") is METHODS["uce"]


@pytest.mark.parametrize("names", [[], ["Noto", "Noto"], ["Noto", "noto"], [" "]])
def test_concepts_are_named_once_each(tiny, quick, names):
    with pytest.raises((UsageError, ValueError)):
        erase_several(tiny, names, quick)


def test_names_become_concepts():
    own = Concept("hat", erase_from="cowboy")
    assert as_concepts(["Noto", own]) == [Concept("Noto"), own]


def test_a_refused_concept_is_an_error_for_one_and_a_result_among_several(emoji, quick):
    settings = dataclasses.replace(quick, keep=("Noto",), known=False)
    with pytest.raises(ConceptRefused) as refused:
        erase(emoji, "Noto", settings)
    assert refused.value.concept == "Noto"

    order = Order(as_concepts(["Twemoji", "Noto", "Firefox"]), settings)
    results = list(METHODS["esd"].produce(emoji, order))
    assert sorted(one.concept for one in results) == ["Firefox", "Noto", "Twemoji"]
    assert [one.concept for one in results if isinstance(one, Refusal)] == ["Noto"]


@pytest.mark.parametrize(("scope", "runs"), [("esd-x-strict", 2), ("esd-x", 3)])
def test_concepts_are_trained_in_runs_of_as_many_as_a_batch_may_hold(
    tiny, quick, monkeypatch, scope, runs
):
    from multierase.methods import fine_tuning

    sizes, whole = [], fine_tuning.train

    def noted(model, plans, *args, **kwargs):
        sizes.append(len(plans))
        return whole(model, plans, *args, **kwargs)

    monkeypatch.setattr(fine_tuning, "train", noted)
    settings = dataclasses.replace(quick, scope=scope, batch_size=2, sampling_batch=4)
    erase_several(tiny, ["Noto", "Twemoji", "Firefox"], settings)
    assert len(sizes) == runs
    assert sum(sizes) == 3


def test_a_checkpoint_is_removed_when_the_next_result_is_asked_for(tiny, quick, tmp_path):
    alone = dataclasses.replace(quick, scope="esd-x")
    order = Order(as_concepts(["Noto", "Twemoji"]), alone, checkpoints=tmp_path)
    results = METHODS["esd"].produce(tiny, order)
    next(results)
    (first,) = tmp_path.iterdir()
    next(results)
    (second,) = tmp_path.iterdir()
    assert first != second
    assert next(results, None) is None
    assert list(tmp_path.iterdir()) == []


def test_prompts_to_keep_are_those_not_about_the_concept(emoji, quick):
    settings = dataclasses.replace(quick, known=False)
    keep = [TaggedPrompt("a whale by Noto", frozenset({"noto"})), TaggedPrompt("a hat")]
    noto, other = erase_several(emoji, ["Noto", "Firefox"], settings, keep=keep)
    assert noto.provenance.separation.kept_exactly == ("", "a hat")
    assert other.provenance.separation.kept_exactly == ("", "a whale by Noto", "a hat")


def test_uce_is_its_closed_form(tiny, quick):
    """``W* = (λW + Σ W g cᵀ + Σ W p pᵀ)(λ + Σ c cᵀ + Σ p pᵀ)⁻¹``, written out in numpy."""
    concept = Concept("Noto", ("a church by Noto",), ("a church",))
    settings = dataclasses.replace(quick, keep=("a cat",), known=False)
    increment = erase(tiny, concept, settings, method="uce")

    (pair,) = aligned(tiny, "a church by Noto", "a church", "tokens")
    c, g = (rows.double().numpy() for rows in pair)
    p = aligned(tiny, "a cat", "", "tokens")[0][0].double().numpy()
    width = c.shape[1]
    right = RIDGE * np.eye(width) + c.T @ c + p.T @ p
    here = tiny.parameters()
    for name in increment.deltas:
        frozen = here[name].detach().double().numpy()
        left = RIDGE * frozen + frozen @ g.T @ c + frozen @ p.T @ p
        expected = left @ np.linalg.inv(right) - frozen
        np.testing.assert_allclose(increment.dense(name), expected, rtol=1e-3, atol=1e-5)


def test_uces_tokens_are_the_sentences_from_the_last_word_on(tiny):
    sentence, context = "a church by Noto", "a church"
    ((with_it, without),) = aligned(tiny, sentence, context, "tokens")
    everything = [tiny.tokens([prompt], "tokens") for prompt in (sentence, context)]
    lengths = [tiny.token_count(prompt) for prompt in (sentence, context)]
    for rows, tokens, length in zip((with_it, without), everything, lengths, strict=True):
        start = length - 2  # begin and end are counted; the last word is before the end
        assert torch.equal(rows, tokens[start : start + len(rows)])
    assert len(with_it) == len(everything[0]) - max(lengths) + 2
