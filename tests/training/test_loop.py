"""The one loop: schedules, early stops, several concepts in one run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from trained import apart, assert_same_bits, erasure_of, plan_of

from multierase import Concept, EraseSettings, TaggedPrompt, erase, erase_several, load_base
from multierase.increments.value import Factors, dense
from multierase.models.scopes import STABLE_DIFFUSION
from multierase.training.delta import together
from multierase.training.loop import descend, train

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure

SCHEDULES = ["pooled", "frozen", "student"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("scope", STABLE_DIFFUSION.scopes)
def test_every_scope_and_schedule_changes_just_its_own_parameters(tiny, quick, scope, schedule):
    before = {name: parameter.clone() for name, parameter in tiny.parameters().items()}
    settings = dataclasses.replace(quick, scope=scope, schedule=schedule)
    increment = erase(tiny, "Noto", settings)
    assert list(increment.deltas) == tiny.scope_parameters(scope)
    moved = {name for name in increment.deltas if increment.dense(name).abs().max() > 0}
    assert len(moved) > 0.9 * len(increment.deltas)
    for name, parameter in tiny.parameters().items():  # the base is as it was
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_it_erases_from_either_version(sd_folder, quick):
    settings = dataclasses.replace(quick, start_at=1.0, steps=60, learning_rate=3e-2)
    increment = erase(load_base(sd_folder, device="cpu"), "Noto", settings)
    degrees = increment.provenance.stop.degrees
    assert degrees[0] == pytest.approx(1.0, abs=1e-3)
    assert np.mean(degrees[-10:]) < 0.5


def test_same_seed_same_increment_other_seed_another(tiny, quick):
    first, again = erase(tiny, "Noto", quick), erase(tiny, "Noto", quick)
    other = erase(tiny, "Noto", dataclasses.replace(quick, seed=1))
    assert_same_bits(first, again)
    assert any(not torch.equal(first.dense(name), other.dense(name)) for name in first.deltas)


def test_gradient_checkpointing_computes_again_what_it_does_not_keep(tiny, quick):
    kept = erase(tiny, "Noto", quick)
    settings = dataclasses.replace(quick, gradient_checkpointing=True)
    again = erase(tiny, "Noto", settings)
    assert all(torch.equal(kept.dense(name), again.dense(name)) for name in kept.deltas)
    assert again.provenance.cost.evaluations > kept.provenance.cost.evaluations
    modules = tiny.pipeline.unet.modules()
    assert not any(getattr(module, "gradient_checkpointing", False) for module in modules)


@pytest.mark.parametrize("scope", ["esd-x-strict", "esd-u"])
def test_gradient_checkpointing_goes_through_the_students_own_weights(tiny, quick, scope):
    """Every scope, and concepts that are trained under each other's increments."""
    settings = dataclasses.replace(quick, scope=scope)
    saving = dataclasses.replace(settings, gradient_checkpointing=True)
    names = ["Noto", "Twemoji"]
    kept, again = (
        erase_several(tiny, names, given, simultaneous=True) for given in (settings, saving)
    )
    for one, other in zip(kept, again, strict=True):
        for name in one.deltas:
            torch.testing.assert_close(one.dense(name), other.dense(name))


def test_memory_is_what_the_model_says(tiny, quick, monkeypatch):
    monkeypatch.setattr(type(tiny), "peak_memory", lambda self: 12345)
    assert erase(tiny, "Noto", quick).provenance.cost.peak_memory_mib == 12345


def test_free_parametrisation_is_dense(tiny, quick):
    increment = erase(tiny, "Noto", dataclasses.replace(quick, decouple=False))
    assert all(isinstance(delta, torch.Tensor) for delta in increment.deltas.values())
    assert increment.provenance.separation.kept_exactly == ()


@pytest.mark.parametrize("decouple", [True, False])
def test_free_matrices_are_trained_as_two_factors(tiny, quick, decouple):
    settings = dataclasses.replace(quick, scope="full", rank=2, decouple=decouple)
    increment = erase(tiny, "Noto", settings)
    here = tiny.parameters()
    separated = set(tiny.readers) if decouple else set()
    assert set(increment.deltas) == set(tiny.scope_parameters("full"))
    for name, delta in increment.deltas.items():
        assert tuple(delta.shape) == tuple(here[name].shape), name
        factored = name in separated or here[name].dim() == 2
        assert isinstance(delta, Factors) is factored, name
        if factored and name not in separated:
            assert delta.down.shape[0] == 2 < min(delta.shape)


@pytest.mark.parametrize("optimizer", ["adam", "adam8bit"])
def test_either_optimiser_erases_by_factors(tiny, quick, optimizer):
    """Of the size that its weights are large enough for, adam8bit has moments of 8 bits."""
    pytest.importorskip("bitsandbytes")
    settings = dataclasses.replace(
        quick, scope="full", rank=4, optimizer=optimizer, steps=60, batch_size=2
    )
    degrees = erase(tiny, "Noto", settings).provenance.stop.degrees
    assert np.mean(degrees[-10:]) < 0.5


def test_a_first_step_of_two_factors_is_as_large_as_that_of_all_numbers(tiny, quick):
    """So one learning rate does for both."""
    settings = dataclasses.replace(quick, scope="full", steps=1, start_at=1.0)
    norms = {}
    for rank in (0, 4):
        increment = erase(tiny, "Noto", dataclasses.replace(settings, rank=rank))
        norms[rank] = {name: dense(delta).norm() for name, delta in increment.deltas.items()}
    factored = [name for name, one in tiny.parameters().items() if one.dim() == 2]
    ratios = [(norms[4][n] / norms[0][n]).item() for n in factored if n not in tiny.readers]
    assert np.median(ratios) == pytest.approx(1.0, abs=0.25)


def test_deltas_are_float32_on_a_bfloat16_base(tiny, quick):
    tiny.pipeline.to(dtype=torch.bfloat16)
    settings = dataclasses.replace(quick, scope="esd-x", decouple=False, free_learning_rate=1e-5)
    increment = erase(tiny, "Noto", settings)
    assert all(increment.dense(name).dtype == torch.float32 for name in increment.deltas)
    # Steps far below bfloat16's rounding are kept.
    largest = max(increment.dense(name).abs().max().item() for name in increment.deltas)
    assert largest == pytest.approx(3e-5, rel=0.1)


# Early stops.


def test_early_stop_says_so_and_spends_less(tiny):
    settings = EraseSettings(
        kind="none", steps=200, batch_size=2, sampler_steps=4, learning_rate=3e-2, stop_at=0.3
    )
    stop = erase(tiny, "Noto", settings).provenance.stop
    assert stop.reason == "erased"
    assert stop.steps == len(stop.degrees) < 200
    assert stop.degree <= 0.3
    average = 1.0
    for degree in stop.degrees:
        assert average > 0.3  # it would have stopped
        average = 0.9 * average + 0.1 * degree
    assert stop.degree == pytest.approx(average, abs=1e-4)


@pytest.mark.parametrize("decouple", [True, False])
def test_the_correlation_falls_and_ends_an_erasure_on_its_own_threshold(tiny, decouple):
    settings = EraseSettings(
        kind="none",
        steps=20,
        batch_size=2,
        sampler_steps=4,
        decouple=decouple,
        free_learning_rate=3e-3,
        stop_at=None,
        stop_on="correlation",
    )
    free = erasure_of(tiny, "Noto", settings, "correlation")
    for batch in free.examples.batches(range(20), {}):
        descend([free], [batch])
    assert free.correlation.curve[-1] < 0 < free.correlation.curve[0]

    stopping = dataclasses.replace(settings, steps=60, stop_at=0.5 * free.correlation.curve[0])
    stop = erase(tiny, "Noto", stopping, method="sepme").provenance.stop
    assert stop.reason == "erased"
    assert 10 < stop.steps < 60


# Several concepts in one run.


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_several_in_one_batch_are_those_of_runs_of_their_own(emoji, schedule):
    """Up to the rounding of larger batches, which Adam's first steps make more of."""
    settings = EraseSettings(
        kind="none",
        schedule=schedule,
        trajectories=3,
        sampler_steps=4,
        steps=6,
        batch_size=2,
        stop_at=None,
    )
    names = ["Noto", "Twemoji", "Fluent Flat"]
    keep = [TaggedPrompt("a whale by Noto", frozenset({"twemoji", "fluent flat"}))]
    several = erase_several(emoji, names, settings, keep=keep)
    for name, one in zip(names, several, strict=True):
        alone = erase(emoji, name, settings, keep=keep)
        assert apart(alone, one) < 1e-3
        assert one.provenance.separation == alone.provenance.separation
        spent = one.provenance.cost.evaluations
        assert spent == alone.provenance.cost.evaluations
    kept = [increment.provenance.separation.kept_exactly for increment in several]
    assert kept == [("", "a whale by Noto"), ("",), ("",)]


@pytest.mark.slow
def test_simultaneous_erasures_that_are_blind_to_each_other_are_those_of_one_at_a_time(
    emoji, quick
):
    """SepME's claim (appendix A7): under exact decoupling the losses separate."""
    settings = dataclasses.replace(
        quick, schedule="frozen", start_at=1.0, learning_rate=5e-2, known=False
    )
    keep = {"Noto": ("Twemoji",), "Twemoji": ("Noto",)}
    each = {name: dataclasses.replace(settings, keep=keep[name]) for name in keep}
    plans = [plan_of(emoji, name, each[name], beside=list(keep)) for name in keep]
    blind = train(emoji, plans, "esd", simultaneous=True)
    for name, increment in zip(keep, blind, strict=True):
        assert apart(erase(emoji, name, each[name]), increment) < 0.1

    # Not blind to each other, they feel each other.
    beside = erase_several(emoji, list(keep), settings, simultaneous=True)
    assert apart(erase(emoji, "Noto", settings), beside[0]) > 0.2


def test_several_losses_are_balanced(tiny, quick):
    """SepME, eq. 35: however large one concept's loss, all pull equally."""
    names = ("Noto", "Twemoji")
    erasures, again = ([erasure_of(tiny, name, quick) for name in names] for _ in range(2))
    batches = [erasure.examples.batches(range(1), {})[0] for erasure in erasures]
    batches[1].target.mul_(10)
    weights = together([erasure.student for erasure in again])
    losses = [
        erasure.loss(batch, tiny.predict(*erasure.inputs(batch), weights))
        for erasure, batch in zip(again, batches, strict=True)
    ]
    ratio = (losses[1].own / losses[0].own).item()
    assert ratio > 10

    total = ratio * losses[0].own + losses[1].own + losses[0].others + losses[1].others
    descend(erasures, batches, erasures)
    for erasure, other in zip(erasures, again, strict=True):
        variables = other.student.variables
        gradients = torch.autograd.grad(total, list(variables.values()), retain_graph=True)
        for name, gradient in zip(variables, gradients, strict=True):
            got = erasure.student.variables[name].grad
            largest = gradient.abs().max().item()
            torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-4 * largest)


def test_concepts_of_one_run_share_what_they_must(tiny, quick):
    free = dataclasses.replace(quick, scope="esd-x")
    with pytest.raises(ValueError, match="erase one concept at a time"):
        train(tiny, [plan_of(tiny, name, free) for name in ("Noto", "Twemoji")], "esd")
    other = dataclasses.replace(quick, eta=1.0)
    with pytest.raises(ValueError, match="the same settings, except for what they keep"):
        train(tiny, [plan_of(tiny, "Noto", quick), plan_of(tiny, "Twemoji", other)], "esd")
    for plans in ([], [plan_of(tiny, "Noto", quick)] * 2):
        with pytest.raises(ValueError, match="give each concept once"):
            train(tiny, plans, "esd")


def test_strict_increments_are_factored_along_what_is_the_concepts_own(tiny, quick):
    increment = erase(tiny, Concept("Noto"), quick)
    empty, both = tiny.tokens([""]).double(), tiny.tokens(["Noto", ""]).double()
    for delta in increment.deltas.values():
        down = delta.down.double()
        outside = down - down @ torch.linalg.pinv(both) @ both
        assert outside.norm() < 1e-4 * down.norm()
        assert (down @ empty.T).norm() < 1e-4 * down.norm() * empty.norm()
