"""What a request leaves open: its kind, what a kind decides, siblings, the step size."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from compositions import twin_of
from families import tiny_model
from trained import erasure_of, plan_of

from multierase import EraseSettings, Workspace, erase
from multierase.errors import UsageError
from multierase.methods import Order, fine_tuning
from multierase.methods.fine_tuning import produce
from multierase.prompts.concepts import Concept
from multierase.prompts.kind import Kind, load_kind
from multierase.training import defaults, loop
from multierase.training.defaults import DEFAULT_RANK, kind_of, with_defaults
from multierase.training.erasure import UNIT_RATE

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
def test_what_a_kind_fills_in(tiny, given, kind, filled):
    open_ones = EraseSettings(**{"stop_at": -1.0, "stop_on": "degree", **given})
    settings = with_defaults(open_ones, kind, tiny)
    assert (settings.kind, settings.scope, settings.eta, settings.stop_at) == filled
    assert with_defaults(settings, kind, tiny) == settings  # nothing is open any more


@pytest.mark.parametrize(
    ("kind", "scope"),
    [(None, "text-input"), (UNSAFE, "esd-x"), (load_kind("artist"), "text-input")],
    ids=["none", "unsafe", "artist"],
)
@pytest.mark.parametrize("family", ["sd3", "flux", "flux2-klein"])
def test_a_family_without_a_kinds_scope_takes_its_own(tokenizer, family, kind, scope):
    model = tiny_model(family, tokenizer)
    assert with_defaults(EraseSettings(), kind, model).scope == scope
    asked = with_defaults(EraseSettings(scope="esd-u"), kind, model)
    with pytest.raises(ValueError, match="unknown scope 'esd-u'"):
        model.scope_parameters(asked.scope)


@pytest.mark.parametrize(
    ("family", "start_at", "steps", "rate"),
    [
        ("sdxl", -1.0, 40, None),
        ("sd3", 1.0, 100, 0.4),
        ("flux", 1.0, 100, 0.4),
        ("flux2-klein", 1.0, 100, 0.4),
    ],
)
def test_a_transformer_is_trained_from_the_base_and_for_longer(
    tokenizer, family, start_at, steps, rate
):
    """A rate that is given stays; with another start, the usual one is a share of that."""
    model = tiny_model(family, tokenizer)
    filled = with_defaults(EraseSettings(), None, model)
    assert (filled.start_at, filled.steps, filled.learning_rate) == (start_at, steps, rate)
    filled = with_defaults(EraseSettings(start_at=0.5, steps=7), None, model)
    assert (filled.start_at, filled.steps, filled.learning_rate) == (0.5, 7, None)
    assert with_defaults(EraseSettings(learning_rate=0.7), None, model).learning_rate == 0.7


@pytest.mark.parametrize(
    ("scope", "most", "rank"),
    [
        ("full", 10**9, 0),
        ("full", 1000, DEFAULT_RANK),
        ("esd-x-strict", 1000, 0),  # separated: it is small as it is
        ("esd-x", 1000, DEFAULT_RANK),
    ],
)
def test_what_would_be_gigabytes_is_of_low_rank(tiny, monkeypatch, scope, most, rank):
    monkeypatch.setattr(defaults, "DENSE_MOST", most)
    assert with_defaults(EraseSettings(scope=scope), None, tiny).rank == rank
    assert with_defaults(EraseSettings(scope=scope, rank=3), None, tiny).rank == 3
    assert with_defaults(EraseSettings(scope=scope, rank=0), None, tiny).rank == 0


def test_nothing_else_is_filled_in(tiny):
    given = EraseSettings(steps=7, keep=("a cat",), seed=3)
    filled = with_defaults(given, UNSAFE, tiny)
    changed = {"kind", "scope", "eta", "stop_at", "rank", "start_at"}
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
    assert made.separation.kept_in_mean["siblings"] == ["Twemoji", "Firefox"]
    found = erase(emoji, "Noto", replace(settings, siblings=())).provenance
    assert "siblings" not in (found.separation.kept_in_mean or {})  # nobody named them

    moved = []
    for given in (settings, replace(settings, siblings=())):
        basis = plan_of(emoji, "Noto", given).directions["tokens"].basis
        own, theirs = (
            (emoji.tokens(list(prompts), "tokens") @ basis).norm()
            for prompts in (["Noto"], settings.siblings)
        )
        moved.append((theirs / own).item())
    assert moved[0] < 0.5 * moved[1]


@pytest.mark.parametrize("listed", [(), ("Firefox",)])
def test_a_runs_own_concepts_are_siblings_as_those_that_are_erased_already(
    emoji, tmp_path, quick, monkeypatch, listed
):
    """So a run that goes on after one concept was stored finds the siblings of the whole run."""
    monkeypatch.setattr(fine_tuning, "train", lambda _, plans, *__, **___: plans)
    kind = yaml.safe_load((emoji.kinds / "studio.yaml").read_text()) | {"beside": ["Feather"]}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(kind))
    concepts = [Concept(name) for name in ("Noto", "Firefox")]
    settings = replace(quick, steps=1, known=False, kind=str(tmp_path / "few.yaml"))
    order = Order(concepts[: 2 - len(listed)], settings, library=listed)
    plans = list(produce(emoji, order, "esd", "esd"))
    assert [plan.concept.name for plan in plans] == ["Noto", "Firefox"][: 2 - len(listed)]
    assert sorted(plans[0].settings.siblings) == ["Feather", "Firefox"]


# The step size.


def rates_of(model, settings) -> dict[str, float]:
    erasure = erasure_of(model, "Noto", settings)
    groups = erasure.optimizer.param_groups

    return {
        name: group["lr"] for name, group in zip(erasure.student.variables, groups, strict=True)
    }


@pytest.fixture
def open_rate(quick) -> EraseSettings:
    """Settings that leave the learning rate to the start."""
    return replace(quick, learning_rate=None, known=False)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.5, 2.0])
def test_a_step_is_a_share_of_each_layers_own_start(emoji, open_rate, size):
    """So it fits a base whose weights are larger, and one whose layers differ."""
    other = twin_of(emoji)
    for name, parameter in other.parameters().items():
        if name.endswith("attn2.to_v.weight"):
            parameter.mul_(size)

    here, there = rates_of(emoji, open_rate), rates_of(other, open_rate)
    for name, rate in here.items():
        factor = size if name.endswith("to_v.weight") else 1
        assert there[name] == pytest.approx(factor * rate, rel=1e-4)
    assert len(set(here.values())) == len(here)


def test_from_the_base_a_step_is_in_units_of_the_tokens_movement(tiny, open_rate):
    assert set(rates_of(tiny, replace(open_rate, start_at=1.0)).values()) == {UNIT_RATE}


def test_a_rate_that_is_given_is_kept(tiny, quick):
    assert set(rates_of(tiny, replace(quick, learning_rate=0.25)).values()) == {0.25}


def test_weights_that_train_freely_have_rates_of_their_own(tiny, open_rate):
    rates = rates_of(tiny, replace(open_rate, scope="esd-x"))
    free = rates_of(tiny, replace(open_rate, scope="esd-x", decouple=False))
    for name, rate in rates.items():
        assert (rate == free[name]) is (name not in tiny.readers)
