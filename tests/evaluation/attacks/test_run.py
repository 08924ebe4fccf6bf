"""Case after case: when an attack ends, what it costs, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from families import tiny_model

from multierase import SamplingSettings
from multierase.errors import UsageError
from multierase.evaluation.attacks import ATTACKS
from multierase.evaluation.attacks.attack import Target
from multierase.evaluation.attacks.run import Attacked, copied, run, target_of
from multierase.models.latents import decode

# Each two attempts at most; 4 sampler steps with guidance are 8 evaluations a picture.
BUDGETS = {
    "unlearn-diff": {"attempts": 2, "steps": 3},
    "p4d-n": {"attempts": 2, "steps": 3, "tokens": 4},
    "p4d-k": {"attempts": 2, "steps": 3},
    "ring-a-bell": {"steps": 2, "tokens": 4, "candidates": 4},
    "inversion": {"steps": 2, "batch": 3, "pictures": 4},
    "relearning": {"steps": 2, "batch": 3, "pictures": 4},
    "noised": {"attempts": 2},
    "random": {"attempts": 2},
}
# By hand: of the first case that is attacked, and of each other one.
COSTS = {
    "unlearn-diff": (8 + 2 * (3 * 2 + 8),) * 2,  # the base's picture; steps there and back
    "p4d-n": (8 + 2 * (3 * (1 + 2) + 8),) * 2,  # and the base's prediction in each step
    "p4d-k": (8 + 2 * (3 * (1 + 2) + 8),) * 2,
    "ring-a-bell": (8, 8),
    "inversion": (4 * 8 + 2 * 3 * 2 + 8, 8),  # four pictures and two steps of three serve all
    "relearning": (4 * 8 + 2 * 3 * 2 + 8, 8),
    "noised": (8 + 3 * 2 + 2 * 2,) * 2,  # from the second step, and from the third
    "random": (2 * 8, 2 * 8),
}


@pytest.fixture(params=list(BUDGETS))
def name(request):
    return request.param


def attacked(name, target, aim, judge, done=()) -> list[Attacked]:
    return list(run(name, ATTACKS[name], target, aim, judge, "studio", done))


def assert_as_before(model, weights):
    for name, weight in model.parameters().items():
        assert torch.equal(weight, weights[name]), name
        assert not weight.requires_grad
        assert weight.grad is None
    for module in (model.pipeline.unet, model.pipeline.text_encoder):
        for layer in module.modules():
            assert not layer._forward_hooks
            assert not layer._forward_pre_hooks


def test_every_attack_has_a_budget_here():
    assert set(BUDGETS) == set(COSTS) == set(ATTACKS)


def test_what_an_attack_costs_and_leaves(name, model, target, aim, scripted):
    """Evaluations are those that are counted by hand, and those that the denoiser saw."""
    seen = 0

    def count(module, args, kwargs, output):
        nonlocal seen
        seen += len(output[0]) * (2 if torch.is_grad_enabled() else 1)

    weights, judge = copied(model), scripted()
    watch = model.pipeline.unet.register_forward_hook(count, with_kwargs=True)
    verdicts = attacked(name, target, aim(**BUDGETS[name]), judge)
    watch.remove()

    first, other = COSTS[name]
    assert [verdict.evaluations for verdict in verdicts] == [first, other, other]
    assert target.evaluations == seen == 3 * 8 + first + 2 * other
    attempts = BUDGETS[name].get("attempts", 1)
    assert [verdict.attempts for verdict in verdicts] == [attempts] * 3
    assert [verdict.number for verdict in verdicts] == [3, 4, 7]
    assert not any(verdict.before or verdict.broken for verdict in verdicts)
    assert {verdict.attack for verdict in verdicts} == {name}
    assert_as_before(model, weights)


@pytest.mark.parametrize("fails_at", [2, 18])
def test_an_attack_that_fails_leaves_the_model_as_it_was(
    name, model, target, aim, scripted, fails_at
):
    calls, weights = 0, copied(model)

    def fail(*_):
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise FloatingPointError("the device is gone")

    watch = model.pipeline.unet.mid_block.register_forward_hook(fail)
    with pytest.raises(FloatingPointError, match="the device is gone"):
        attacked(name, target, aim(**BUDGETS[name]), scripted())
    watch.remove()
    assert calls == fails_at
    assert_as_before(model, weights)


def test_an_attack_that_is_left_half_way_leaves_nothing(name, model, target, aim, scripted):
    weights = copied(model)
    verdicts = run(name, ATTACKS[name], target, aim(**BUDGETS[name]), scripted(), "studio")
    next(verdicts)
    verdicts.close()
    assert_as_before(model, weights)


def test_the_first_success_ends_a_case(target, aim, scripted):
    # Three without an attack, then attempts: no, yes; yes; no, no, no.
    judge = scripted([False] * 3 + [False, True] + [True] + [False] * 3)
    verdicts = attacked("random", target, aim(attempts=3), judge)
    assert [verdict.broken for verdict in verdicts] == [True, True, False]
    assert [verdict.attempts for verdict in verdicts] == [2, 1, 3]
    assert [verdict.evaluations for verdict in verdicts] == [16, 8, 24]
    assert len(judge.pictures) == 3 + 2 + 1 + 3


def test_the_judge_sees_the_pictures_that_the_verdict_speaks_of(target, aim, scripted, text):
    judge = scripted([False] * 3 + [False, True])
    verdict, *_ = attacked("random", target, aim(attempts=3), judge)
    picture = target.draw(text.encode_ids(verdict.ids), [5])
    torch.testing.assert_close(judge.pictures[4], decode(target.model, picture)[0])
    assert verdict.prompt == text.text(verdict.ids)


def test_what_is_seen_without_an_attack_is_not_attacked(target, aim, scripted, monkeypatch):
    verdicts = attacked("random", target, aim(attempts=2), scripted([True, False, True]))
    assert [verdict.before for verdict in verdicts] == [True, False, True]
    assert [verdict.broken for verdict in verdicts] == [True, False, True]
    assert [verdict.attempts for verdict in verdicts] == [0, 2, 0]
    assert [verdict.evaluations for verdict in verdicts] == [0, 16, 0]
    assert verdicts[0].prompt == "a church by Noto"

    # What serves all cases is not done for none.
    monkeypatch.setattr(Target, "of_base", None)
    verdicts = attacked("relearning", target, aim(), scripted([True] * 3))
    assert [verdict.evaluations for verdict in verdicts] == [0, 0, 0]


def test_it_is_reproducible_by_its_seed(name, target, aim, scripted):
    first, again = (attacked(name, target, aim(**BUDGETS[name]), scripted()) for _ in range(2))
    assert first == again  # the base's pictures are there the second time
    if name in ("relearning", "noised"):
        return
    other = attacked(name, target, aim(seed=1, **BUDGETS[name]), scripted())
    for one, another in zip(first, other, strict=True):
        assert (one.ids, one.vector) != (another.ids, another.vector)


def test_other_seeds_have_other_noise(target, aim, scripted):
    for name in ("relearning", "noised"):
        judges = [scripted(), scripted()]
        for seed, judge in enumerate(judges):
            attacked(name, target, aim(seed=seed, **BUDGETS[name]), judge)
        assert torch.equal(judges[0].pictures[0], judges[1].pictures[0])
        assert not torch.equal(judges[0].pictures[3], judges[1].pictures[3])


def test_it_does_not_depend_on_what_was_done_before(name, model, base, target, aim, scripted):
    wanted = aim(**BUDGETS[name])
    whole = attacked(name, target, wanted, scripted())
    fresh = target_of(model, base, target.sampling)
    rest = attacked(name, fresh, wanted, scripted(), done=[3])
    assert [verdict.number for verdict in rest] == [4, 7]
    if COSTS[name][0] != COSTS[name][1]:
        # The first one that is attacked carries what serves all.
        assert rest[0].evaluations == whole[0].evaluations
        rest[0] = dataclasses.replace(rest[0], evaluations=whole[1].evaluations)
    for ours, theirs in zip(rest, whole[1:], strict=True):
        assert ours.vector == pytest.approx(theirs.vector, abs=1e-4)
        assert dataclasses.replace(ours, vector=()) == dataclasses.replace(theirs, vector=())
    assert attacked(name, fresh, wanted, scripted(), done=[3, 4, 7]) == []


def test_verdicts_go_through_json(target, aim, scripted):
    for name in ("random", "inversion"):
        for verdict in attacked(name, target, aim(**BUDGETS[name]), scripted([True])):
            read = json.loads(json.dumps(verdict.as_json()))
            assert Attacked.from_json(read) == verdict
    assert any(verdict.vector) or verdict.before


@pytest.mark.parametrize(
    "change",
    [
        lambda read: {**read, "more": 1},
        lambda read: {key: read[key] for key in read if key != "before"},
        lambda read: {key: read[key] for key in read if key != "ids"},
        lambda read: {**read, "vector": None},
        lambda read: [read],
        lambda read: None,
    ],
)
def test_other_json_is_no_verdict(change):
    read = Attacked("random", "Noto", 3, False, True, 1, 8, "a cat", (4,)).as_json()
    with pytest.raises(TypeError):
        Attacked.from_json(change(read))


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_attacks_on_tokens_refuse_several_towers_before_anything(
    family, name, tokenizer, aim, scripted, monkeypatch
):
    model = tiny_model(family, tokenizer)
    target = target_of(model, copied(model), SamplingSettings(2, 3.0))
    if ATTACKS[name].by_tokens:
        judge = scripted([True] * 3)  # not even where no case is left to attack
        with pytest.raises(UsageError, match="several text towers read: attacks on tokens fit"):
            attacked(name, target, aim(**BUDGETS[name]), judge)
        assert (judge.pictures, target.evaluations) == ([], 0)
        return

    case = aim().cases[:1]
    (verdict,) = attacked(name, target, aim(cases=case, **BUDGETS[name]), scripted())
    assert verdict.attempts == BUDGETS[name].get("attempts", 1)
    assert not any(weight.requires_grad for weight in model.parameters().values())


def test_no_attack_takes_latents_that_cannot_be_decoded(name, tokenizer, aim, scripted):
    model = tiny_model("flux2-klein", tokenizer)
    with pytest.raises(UsageError, match="'flux-2-klein', whose latents cannot be decoded"):
        target_of(model, copied(model), SamplingSettings(2, 3.0))
    target = Target(model, {}, SamplingSettings(2, 3.0))
    with pytest.raises(UsageError, match="'flux-2-klein'"):
        attacked(name, target, aim(**BUDGETS[name]), scripted())
    assert target.evaluations == 0
