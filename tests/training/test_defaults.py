"""What a request leaves open: its kind, what a kind decides, siblings, and the step size."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from compositions import twin_of
from trained import assert_same_bits, erasure_of, plan_of

from multierase import Concept, EraseSettings, Workspace, erase
from multierase.errors import UsageError
from multierase.prompts.kind import Kind, load_kind
from multierase.training import defaults, loop
from multierase.training.checkpoint import load_checkpoint, save_checkpoint
from multierase.training.defaults import kind_of, with_defaults
from multierase.training.erasure import FIRST_STEP, LARGEST_RATE, LEAST_RATE
from multierase.training.objectives import erasure_degree

THING = {"about": "things", "sentences": {"{name}": ""}, "subjects": ["desk"]}
BARE = Kind("thing", "things", {"{name}": ""}, ("desk",))


# Kinds.


def test_auto_is_the_bases_own_kind_or_the_default(emoji, tiny, monkeypatch):
    assert kind_of(emoji, "auto").name == "studio"
    assert kind_of(tiny, "auto") is None  # as the tests' settings have it
    monkeypatch.undo()
    assert defaults.DEFAULT_KIND == "artist"
    assert kind_of(tiny, "auto") == load_kind("artist")


def test_none_is_no_kind_and_a_name_is_the_bases_own_first(emoji, tmp_path):
    assert kind_of(emoji, "none") is None
    assert kind_of(emoji, "person") == load_kind("person")
    for name in ("zebra", "artist"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(THING))
    base = SimpleNamespace(kinds=tmp_path)
    assert kind_of(base, "artist").about == "things"
    assert kind_of(base, "zebra").name == "zebra"
    assert kind_of(base, "auto").name == "artist"  # the first of several
    assert kind_of(SimpleNamespace(kinds=None), str(tmp_path / "zebra.yaml")).name == "zebra"


@pytest.mark.parametrize(
    ("name", "message"),
    [("artits", "did you mean 'artist'"), ("studios", "did you mean 'studio'"), ("", "no kind ''")],
)
def test_an_unknown_kind_is_told_with_the_nearest(emoji, name, message):
    with pytest.raises(UsageError, match=message):
        kind_of(emoji, name)


def test_an_unknown_kind_is_told_before_anything_is_trained(emoji, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(loop, "descend", lambda *_: pytest.fail("trains"))
    workspace = Workspace(tmp_path, emoji)
    with pytest.raises(UsageError, match=r"no kind 'artits'; did you mean 'artist'\?"):
        workspace.train("Noto", settings=replace(quick, kind="artits"))
    assert list(tmp_path.iterdir()) == []


# What a kind decides.

UNSAFE = load_kind("unsafe")  # its eta is 1, and its scope esd-u


@pytest.mark.parametrize(
    ("given", "kind", "filled"),
    [
        ({}, None, ("none", "esd-x-strict", 3.0, -1.0)),
        ({}, BARE, ("thing", "esd-x-strict", 3.0, -1.0)),
        ({}, replace(BARE, scope="esd-x"), ("thing", "esd-x", 3.0, -1.0)),
        ({"scope": "full"}, UNSAFE, ("unsafe", "full", 1.0, pytest.approx(-1 / 3))),
        ({}, UNSAFE, ("unsafe", "esd-u", 1.0, pytest.approx(-1 / 3))),
        ({"stop_at": -0.6}, UNSAFE, ("unsafe", "esd-u", 1.0, pytest.approx(-0.2))),
        ({"stop_at": None}, UNSAFE, ("unsafe", "esd-u", 1.0, None)),
        ({"stop_on": "unseen"}, UNSAFE, ("unsafe", "esd-u", 1.0, pytest.approx(-1 / 3))),
        # A correlation has the model's own scale, and who gives an eta gives the stop for it.
        ({"stop_on": "correlation"}, UNSAFE, ("unsafe", "esd-u", 1.0, -1.0)),
        ({"eta": 2.0}, UNSAFE, ("unsafe", "esd-u", 2.0, -1.0)),
        ({"eta": 2.0}, None, ("none", "esd-x-strict", 2.0, -1.0)),
        ({"kind": "my/unsafe.yaml"}, UNSAFE, ("my/unsafe.yaml", "esd-u", 1.0, -1 / 3)),
    ],
)
def test_what_a_kind_fills_in(given, kind, filled):
    settings = with_defaults(EraseSettings(**{"stop_at": -1.0, "stop_on": "degree", **given}), kind)
    assert (settings.kind, settings.scope, settings.eta, settings.stop_at) == filled
    assert with_defaults(settings, kind) == settings  # nothing is open any more


def test_nothing_else_is_filled_in():
    given = EraseSettings(steps=7, keep=("a cat",), seed=3)
    filled = with_defaults(given, UNSAFE)
    changed = {"kind", "scope", "eta", "stop_at"}
    for field in dataclasses.fields(EraseSettings):
        same = getattr(filled, field.name) == getattr(given, field.name)
        assert same is (field.name not in changed), field.name


@pytest.mark.slow
def test_an_increment_says_what_was_filled_in(tiny, quick):
    settings = replace(quick, steps=1, eta=None, stop_at=-1.5, kind="auto")
    made = erase(tiny, "Noto", settings).provenance
    assert (made.scope, made.settings["scope"]) == ("esd-x-strict", "esd-x-strict")
    assert (made.settings["kind"], made.settings["eta"], made.settings["stop_at"]) == (
        "none",
        3.0,
        -1.5,
    )


# Siblings.


@pytest.mark.parametrize("sibling", ["Noto", "noto", "NOTO"])
def test_a_sibling_that_is_the_concept_is_told_before_anything_is_trained(
    emoji, tmp_path, quick, monkeypatch, sibling
):
    monkeypatch.setattr(loop, "descend", lambda *_: pytest.fail("trains"))
    settings = replace(quick, siblings=("Firefox", sibling))
    with pytest.raises(UsageError, match=f"the sibling '{sibling}' is the concept itself"):
        Workspace(tmp_path, emoji).train("Twemoji", "Noto", settings=settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_siblings_end_in_the_provenance_and_move_less(emoji, quick):
    settings = replace(quick, steps=1, known=False, siblings=("Twemoji", "Firefox"))
    increment = erase(emoji, "Noto", settings)
    made = increment.provenance
    assert made.settings["siblings"] == ["Twemoji", "Firefox"]
    assert made.separation.kept_in_mean["prompts"] == 2

    moved = []
    for given in (settings, replace(settings, siblings=())):
        basis = plan_of(emoji, "Noto", given).directions["tokens"].basis
        own, theirs = (
            (emoji.tokens(list(prompts)) @ basis).norm()
            for prompts in (["Noto"], settings.siblings)
        )
        moved.append((theirs / own).item())
    assert moved[0] < 0.5 * moved[1]


# The step size.


@pytest.fixture
def measured(quick) -> EraseSettings:
    """Settings that leave the learning rate to be measured."""
    return replace(quick, learning_rate=None, known=False)


def begun(model, settings, steps: int = 1):
    """An erasure after some steps, and the batches that it took."""
    erasure = erasure_of(model, "Noto", settings)
    batches = erasure.examples.batches(range(max(steps, 1)), {})
    for batch in batches[:steps]:
        loop.descend([erasure], [batch])

    return erasure, batches


def rates_of(erasure) -> set[float]:
    return {group["lr"] for group in erasure.optimizer.param_groups}


def rate_of(model, settings) -> float:
    (rate,) = rates_of(begun(model, settings)[0])
    assert LEAST_RATE < rate < LARGEST_RATE

    return rate


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.5, 2.0])
def test_the_first_step_lowers_the_degree_by_as_much_as_is_said(emoji, measured, effect):
    """With values of half the size a concept says half as much, and half a step undoes it."""
    settings, weak = replace(measured, batch_size=4), twin_of(emoji)
    for name, parameter in weak.parameters().items():
        if name.endswith("attn2.to_v.weight"):
            parameter.mul_(effect)

    rates = []
    for model in (emoji, weak):
        erasure, (batch,) = begun(model, settings)
        eps = erasure._predict(batch.x_t, batch.t, batch.text)
        degree = erasure_degree(eps, batch.eps_concept, batch.eps_null).item()
        assert degree == pytest.approx(1 - FIRST_STEP, abs=0.15)  # a step is not small
        rates += rates_of(erasure)
    assert rates[1] / rates[0] == pytest.approx(effect, rel=0.35)


@pytest.mark.slow
def test_the_trial_step_leaves_nothing_behind(tiny, measured):
    rate = rate_of(tiny, measured)
    ours, theirs = (
        erase(tiny, "Noto", settings)
        for settings in (measured, replace(measured, learning_rate=rate))
    )
    assert ours.provenance.settings["learning_rate"] is None
    assert ours.deltas.keys() == theirs.deltas.keys()
    assert all(torch.equal(ours.dense(name), theirs.dense(name)) for name in ours.deltas)
    # Its cost is counted: a step, and a look at what it did.
    assert rate_of(tiny, measured) == rate  # it is the base's, not chance's
    spent, without = (one.provenance.cost.evaluations for one in (ours, theirs))
    assert spent - without > measured.batch_size


def test_a_rate_that_is_given_is_kept(tiny, quick):
    assert rates_of(begun(tiny, replace(quick, learning_rate=0.25))[0]) == {0.25}


@pytest.mark.slow
def test_weights_that_train_freely_keep_their_own_rates(tiny, measured):
    settings = replace(measured, scope="esd-x")
    erasure = erasure_of(tiny, "Noto", settings)
    before = [group["lr"] for group in erasure.optimizer.param_groups]
    loop.descend([erasure], erasure.examples.batches(range(1), {}))
    after = [group["lr"] for group in erasure.optimizer.param_groups]
    for name, was, rate in zip(erasure.student.variables, before, after, strict=True):
        assert (rate == was) is (name not in tiny.readers)

    free, _ = begun(tiny, replace(measured, decouple=False))
    untouched = erasure_of(tiny, "Noto", replace(measured, decouple=False))
    assert rates_of(free) == rates_of(untouched)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_rate(tiny, measured, tmp_path):
    """Though the batch that it goes on with would measure another."""
    settings = replace(measured, steps=4, batch_size=1)
    whole, batches = begun(tiny, settings, 4)
    first, _ = begun(tiny, settings, 2)
    save_checkpoint([first], tmp_path / "run")
    resumed = erasure_of(tiny, "Noto", settings)
    load_checkpoint([resumed], tmp_path / "run")
    assert rates_of(resumed) == rates_of(whole)
    for batch in batches[2:]:
        loop.descend([resumed], [batch])
    assert rates_of(resumed) == rates_of(whole)
    assert_same_bits(resumed.increment(), whole.increment())

    other = erasure_of(tiny, "Noto", settings)
    loop.descend([other], [batches[2]])
    assert rates_of(other) != rates_of(whole)


@pytest.mark.slow
def test_concepts_that_share_a_run_have_rates_of_their_own(emoji, measured):
    erasures = [erasure_of(emoji, Concept(name), measured) for name in ("Noto", "Fluent Flat")]
    batches = [erasure.examples.batches(range(1), {})[0] for erasure in erasures]
    loop.descend(erasures, batches)
    (one,), (other,) = (rates_of(erasure) for erasure in erasures)
    assert one != other
    assert one == rate_of(emoji, measured)
