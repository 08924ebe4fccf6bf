import dataclasses
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from multierase import training
from multierase.base import Base
from multierase.composer import Composer
from multierase.concepts import Concept
from multierase.decoupling import ConceptRefused
from multierase.increments import SCOPES, touched_parameters
from multierase.student import side_by_side, together
from multierase.training import EraseSettings, Erasure, descend, erase, erase_several


def assert_equal(a, b):
    assert a.deltas.keys() == b.deltas.keys()
    assert [name for name in a.deltas if not torch.equal(a.dense(name), b.dense(name))] == []


@pytest.mark.parametrize("schedule", ["pooled", "frozen", "student"])
@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_and_schedule_changes_just_its_own_parameters(tiny, quick, scope, schedule):
    before = {name: parameter.clone() for name, parameter in tiny.unet.named_parameters()}
    increment = erase(tiny, "Noto", dataclasses.replace(quick, scope=scope, schedule=schedule))
    assert list(increment.deltas) == touched_parameters(tiny.unet, scope)
    moved = {name for name in increment.deltas if increment.dense(name).abs().max() > 0}
    assert len(moved) > 0.9 * len(increment.deltas)
    for name, parameter in tiny.unet.named_parameters():  # the base is as it was
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_strict_increments_are_factored_and_leave_the_empty_prompt_exactly_alone(tiny, quick):
    increment = erase(tiny, "Noto", quick)
    x_t = torch.randn(1, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    t, null, noto = torch.tensor([500]), tiny.text([""]), tiny.text(["Noto"])
    before = tiny.predict_noise(x_t, t, null), tiny.predict_noise(x_t, t, noto)
    with Composer(tiny.unet, {"Noto": increment * 20.0}).erased("Noto"):
        torch.testing.assert_close(tiny.predict_noise(x_t, t, null), before[0], atol=2e-5, rtol=0)
        assert (tiny.predict_noise(x_t, t, noto) - before[1]).abs().max() > 1e-3
    assert all(delta.up.shape[1] <= len(tiny.text.tokens("Noto")) + 8 for delta in increment.deltas.values())


def test_keep_prompts_are_kept_exactly_and_listed(emoji, quick):
    increment = erase(emoji, "Noto", dataclasses.replace(quick, keep=("a church by Twemoji",), known=False))
    kept, own = emoji.text(["a church by Twemoji", "Noto"])
    for name in increment.deltas:
        assert (increment.dense(name) @ kept.T).norm() < 1e-4 * (increment.dense(name) @ own.T).norm()
    assert increment.info["decoupled_from"]["exactly"] == ["", "a church by Twemoji"]


def test_more_prompts_than_there_are_dimensions_cannot_be_kept_exactly(tiny, quick):
    with pytest.raises(ValueError, match="keep fewer prompts"):
        erase(tiny, "Noto", dataclasses.replace(quick, keep=("a church by Twemoji", "a cat", "Firefox art")))


def test_gradient_checkpointing_computes_again_what_it_does_not_keep(tiny, quick):
    kept, again = (
        erase(tiny, "Noto", dataclasses.replace(quick, gradient_checkpointing=again)) for again in (False, True)
    )
    assert_equal(kept, again)
    assert again.info["unet_evaluations"] > kept.info["unet_evaluations"]
    assert kept.info["peak_memory_mib"] > 100
    assert not any(getattr(module, "gradient_checkpointing", False) for module in tiny.unet.modules())
    with pytest.raises(ValueError, match="gradient_checkpointing is for the scope 'esd-x-strict', given 'esd-u'"):
        dataclasses.replace(quick, gradient_checkpointing=True, scope="esd-u")
    with pytest.raises(ValueError, match="not trained simultaneously"):
        settings = dataclasses.replace(quick, gradient_checkpointing=True)
        erase_several(tiny, ["Noto", "Twemoji"], settings, simultaneous=True)


def test_free_parametrisation_is_dense(tiny, quick):
    increment = erase(tiny, "Noto", dataclasses.replace(quick, decouple=False))
    assert all(isinstance(delta, torch.Tensor) for delta in increment.deltas.values())
    assert increment.info["decoupled_from"]["exactly"] == []


def test_one_step_agrees_with_a_plain_rendering_of_the_paper(tiny):
    """One sample, one step of Adam, written out once more without any of the package's training code."""
    settings = EraseSettings(
        steps=1,
        batch_size=1,
        sampler_steps=6,
        stop_at=None,
        scope="esd-x",
        decouple=False,
        schedule="frozen",
        eta=1.0,
        free_learning_rate=1e-3,
    )
    increment = erase(tiny, "Noto", settings)
    noise, stops, *_ = Erasure(tiny, Concept("Noto"), settings).examples.draw(0)
    scheduler, x_t = tiny.sampler(6), noise.clone()
    concept, null = tiny.text(["Noto"]), tiny.text([""])
    with torch.no_grad():
        for t in scheduler.timesteps[: int(stops[0])]:
            eps_c, eps_n = (tiny.unet(x_t, t, text).sample for text in (concept, null))
            x_t = scheduler.step(eps_n + 3.0 * (eps_c - eps_n), t, x_t).prev_sample
        t = scheduler.timesteps[int(stops[0])]
        eps_c, eps_n = (tiny.unet(x_t, t, text).sample for text in (concept, null))
    parameters = {n: p for n, p in tiny.unet.named_parameters() if ".attn2." in n}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    loss = ((tiny.unet(x_t, t, concept).sample - (eps_n - 1.0 * (eps_c - eps_n))) ** 2).mean()
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    signs_agree, large = [], 0
    for name, gradient in gradients.items():
        clear = gradient.abs() > 1e-6  # Adam's first step is the learning rate times the sign
        large += int(clear.sum())
        expected = -settings.free_learning_rate * gradient.sign()
        signs_agree.append(
            ((increment.dense(name) - expected).abs()[clear] < 0.02 * settings.free_learning_rate).float()
        )
    assert large > 1000
    assert torch.cat(signs_agree).mean() > 0.999


def test_same_seed_same_increment_other_seed_another(tiny, quick):
    first, again = erase(tiny, "Noto", quick), erase(tiny, "Noto", quick)
    other = erase(tiny, "Noto", dataclasses.replace(quick, seed=1))
    assert_equal(first, again)
    assert any(not torch.equal(first.dense(name), other.dense(name)) for name in first.deltas)


def test_it_descends_on_its_objective(tiny):
    settings = EraseSettings(steps=60, batch_size=2, sampler_steps=4, learning_rate=3e-2, stop_at=None)
    degrees = erase(tiny, "Noto", settings).info["erasure_degrees"]
    assert degrees[0] == pytest.approx(1.0, abs=1e-3)
    assert np.mean(degrees[-10:]) < 0.5


def test_early_stop_says_so_and_spends_less(tiny):
    settings = EraseSettings(steps=200, batch_size=2, sampler_steps=4, learning_rate=3e-2, stop_at=0.3)
    info = erase(tiny, "Noto", settings).info
    assert info["stop_reason"] == "erased" and info["steps"] < 200
    assert info["erasure_degree"] <= 0.3


def test_evaluations_are_counted(tiny):
    settings = EraseSettings(schedule="frozen", steps=2, batch_size=3, sampler_steps=5, stop_at=None)
    erasure = Erasure(tiny, Concept("Noto"), settings)
    stops = torch.cat([erasure.examples.draw(step)[1] for step in range(2)])
    info = erase(tiny, "Noto", settings).info
    sampling, targets = 2 * int(stops.sum()), 2 * len(stops)
    trained = info["unet_evaluations"] - sampling - targets
    assert 1.7 * 6 <= trained <= 2.3 * 6  # forward and backward of a strict step: about two forwards a latent


def test_erase_from_and_anchor(tiny, quick):
    concept = Concept("hat", erase_from="cowboy")
    erasure = Erasure(tiny, concept, quick)
    (batch,) = erasure.examples.batches(range(1), {})
    cowboy, hat, null = (tiny.text([prompt] * len(batch.x_t)) for prompt in ("cowboy", "hat", ""))
    eps = [tiny.predict_noise(batch.x_t, batch.t, text) for text in (cowboy, hat, null)]
    torch.testing.assert_close(batch.text, cowboy)
    torch.testing.assert_close(batch.target, eps[0] - quick.eta * (eps[1] - eps[2]), atol=1e-5, rtol=1e-4)
    assert erase(tiny, concept, quick).info["erase_from"] == "cowboy"


def test_several_prompts_are_all_used(tiny, quick):
    prompts = ("Noto", "a church by Noto", "Noto art")
    erasure = Erasure(tiny, Concept("Noto", prompts), quick)
    used = {int(i) for step in range(20) for i in erasure.examples.draw(step)[2]}
    assert used == {0, 1, 2}
    assert erase(tiny, Concept("Noto", prompts), quick).info["prompts"] == list(prompts)


@pytest.mark.parametrize("schedule", ["pooled", "frozen", "student"])
def test_resumed_is_uninterrupted(tiny, tmp_path, monkeypatch, schedule):
    settings = EraseSettings(
        steps=40, batch_size=1, sampler_steps=2, sampling_batch=16, stop_at=None, schedule=schedule
    )
    whole = erase(tiny, "Noto", settings)
    checkpoint = tmp_path / "noto.partial"
    calls = []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 36:
            raise KeyboardInterrupt
        descend(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "descend", killed)
        with pytest.raises(KeyboardInterrupt):
            erase(tiny, "Noto", settings, checkpoint=checkpoint)
    assert checkpoint.exists()
    learned = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "descend", lambda *arguments: learned.append(1) or descend(*arguments))
        resumed = erase(tiny, "Noto", settings, checkpoint=checkpoint, resume=True)
    assert len(learned) == 40 - 32
    assert_equal(whole, resumed)
    drop = {"seconds", "peak_memory_mib"}
    assert {k: v for k, v in whole.info.items() if k not in drop} == {
        k: v for k, v in resumed.info.items() if k not in drop
    }
    assert not checkpoint.exists()


def _erase_slowly(base, settings, checkpoint):
    torch.set_num_threads(1)
    erase(base, "Noto", settings, checkpoint=checkpoint)


def test_kill_minus_nine_then_resume(tiny, tmp_path):
    settings = EraseSettings(steps=64, batch_size=1, sampler_steps=2, sampling_batch=16, stop_at=None)
    checkpoint = tmp_path / "noto.partial"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        process = multiprocessing.get_context("fork").Process(target=_erase_slowly, args=(tiny, settings, checkpoint))
        process.start()
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        resumed = erase(tiny, "Noto", settings, checkpoint=checkpoint, resume=True)
        assert_equal(erase(tiny, "Noto", settings), resumed)
    finally:
        torch.set_num_threads(threads)


def test_a_checkpoint_of_other_settings_is_refused(tiny, quick, tmp_path):
    checkpoint = tmp_path / "noto.partial"
    training._save_checkpoint([Erasure(tiny, Concept("Noto"), quick)], checkpoint)
    with pytest.raises(ValueError, match="checkpoint of another erasure"):
        erase(tiny, "Noto", dataclasses.replace(quick, eta=quick.eta + 1), checkpoint=checkpoint, resume=True)
    assert checkpoint.exists()


def test_deltas_are_float32_on_a_bfloat16_base(tokenizer, quick):
    from conftest import tiny_pipeline

    base = Base(tiny_pipeline(tokenizer).to(dtype=torch.bfloat16), "tiny")
    increment = erase(base, "Noto", dataclasses.replace(quick, scope="esd-x", decouple=False, free_learning_rate=1e-5))
    assert all(increment.dense(name).dtype == torch.float32 for name in increment.deltas)
    assert increment.norm() > 0  # steps far below bfloat16's rounding are kept


def test_a_diverging_erasure_is_an_error(tiny, quick):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        erase(tiny, "Noto", dataclasses.replace(quick, scope="full", free_learning_rate=1e30, steps=5))


def test_settings_are_checked_all_at_once():
    with pytest.raises(ValueError) as error:
        EraseSettings(
            scope="esdx", schedule="fast", steps=0, learning_rate=float("nan"), eta=float("inf"), momentum=1.0
        )
    for part in ("did you mean 'esd-x'", "schedule is 'fast'", "steps is 0", "learning_rate is nan", "eta is inf"):
        assert part in str(error.value)


@pytest.mark.parametrize("concept", ["ピカチュウ", "a ☃"])
def test_a_concept_that_the_tokenizer_cannot_represent(tiny, quick, concept):
    with pytest.raises(ValueError, match="tokenizer cannot represent"):
        erase(tiny, concept, quick)


@pytest.mark.parametrize("regularizer", ["l1", "l2"])
def test_regularisation_shrinks_the_increment(tiny, regularizer):
    settings = EraseSettings(
        steps=30,
        batch_size=2,
        sampler_steps=4,
        learning_rate=3e-2,
        free_learning_rate=3e-3,
        stop_at=None,
        scope="esd-x",
    )
    free = erase(tiny, "Noto", settings)
    held = erase(tiny, "Noto", dataclasses.replace(settings, regularizer=regularizer, beta=1.0))
    assert held.norm() < 0.8 * free.norm()


def test_a_sentences_context_takes_the_place_of_the_empty_prompt(tiny, quick):
    concept = Concept("Noto", ("a church by Noto",), contexts=("a church",))
    (batch,) = Erasure(tiny, concept, quick).examples.batches(range(1), {})
    church, sentence = (tiny.text([prompt] * len(batch.x_t)) for prompt in ("a church", "a church by Noto"))
    eps_context, eps_concept = (tiny.predict_noise(batch.x_t, batch.t, text) for text in (church, sentence))
    torch.testing.assert_close(
        batch.target, eps_context - quick.eta * (eps_concept - eps_context), atol=1e-5, rtol=1e-4
    )


def test_known_sentences_join_a_bare_name_only(emoji, quick):
    bare = Erasure(emoji, Concept("Twemoji"), quick).concept
    assert bare.prompts[0] == "Twemoji" and "an airplane by Twemoji" in bare.prompts
    assert dict(zip(bare.prompts, bare.contexts, strict=True))["an airplane by Twemoji"] == "an airplane"
    assert not any("Fluent" in prompt for prompt in bare.prompts)
    assert Erasure(emoji, Concept("Twemoji"), dataclasses.replace(quick, known=False)).concept.prompts == ("Twemoji",)
    assert Erasure(emoji, Concept("x", ("Twemoji art",)), quick).concept.prompts == ("Twemoji art",)


def test_the_keep_loss_keeps(tiny):
    settings = EraseSettings(
        steps=40, batch_size=2, sampler_steps=4, free_learning_rate=3e-3, stop_at=None, scope="esd-x", decouple=False,
        keep=("a church by Twemoji",),
    )  # fmt: skip
    x_t, t = (
        torch.randn(4, *tiny.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([99, 399, 699, 899]),
    )
    text = tiny.text(["a church by Twemoji"] * 4)
    before = tiny.predict_noise(x_t, t, text)
    changes = {}
    for weight in (0.0, 10.0):
        increment = erase(tiny, "Noto", dataclasses.replace(settings, keep_weight=weight))
        with Composer(tiny.unet, {"Noto": increment}).erased("Noto"):
            changes[weight] = (tiny.predict_noise(x_t, t, text) - before).norm()
    assert changes[10.0] < 0.7 * changes[0.0]


@pytest.mark.parametrize("decouple", [True, False])
def test_the_correlation_falls_and_ends_an_erasure_on_its_own_threshold(tiny, decouple):
    settings = EraseSettings(
        steps=60, batch_size=2, sampler_steps=4, objective="correlation", decouple=decouple, free_learning_rate=3e-3,
        stop_at=None, stop_on="correlation",
    )  # fmt: skip
    free = Erasure(tiny, Concept("Noto"), dataclasses.replace(settings, steps=20))
    for batch in free.examples.batches(range(20), {}):
        descend([free], [batch])
    assert free.correlation.curve[-1] < 0 < free.correlation.curve[0]
    stopped = erase(tiny, "Noto", dataclasses.replace(settings, stop_at=0.5 * free.correlation.curve[0]))
    assert stopped.info["stop_reason"] == "erased" and 10 < stopped.info["steps"] < 60


def test_the_students_own_empty_prompt_is_asked_where_nothing_keeps_it(tiny, quick):
    free = dataclasses.replace(quick, objective="correlation", decouple=False, keep_weight=0.0, free_learning_rate=1e-3)
    evaluations = {
        objective: erase(tiny, "Noto", dataclasses.replace(free, objective=objective)).info["unet_evaluations"]
        for objective in ("esd", "correlation")
    }
    assert evaluations["correlation"] > evaluations["esd"]
    erasure = Erasure(tiny, Concept("Noto"), free)
    batches = erasure.examples.batches(range(2), {})
    descend([erasure], batches[:1])
    student, null = (
        tiny.predict_noise(batches[1].x_t, batches[1].t, text, together([erasure.student])).detach()
        for text in (batches[1].text, batches[1].null)
    )
    expected = ((student - null) * (batches[1].eps_concept - batches[1].eps_null)).mean().item()
    descend([erasure], batches[1:])
    assert erasure.correlation.curve[1] == pytest.approx(expected, rel=1e-3)


def test_simultaneous_erasures_of_concepts_that_are_blind_to_each_other_are_those_of_one_at_a_time(emoji, quick):
    """SepME's claim (appendix A7): under exact decoupling the losses separate."""
    settings = dataclasses.replace(quick, schedule="frozen", learning_rate=5e-2, known=False, keep_weight=0.0)
    keep = {"Noto": ("Twemoji",), "Twemoji": ("Noto",)}
    blind = [Erasure(emoji, Concept(name), dataclasses.replace(settings, keep=keep[name])) for name in keep]
    for step in range(settings.steps):
        descend(blind, [erasure.examples.batches(range(step, step + 1), {})[0] for erasure in blind], blind)
    for name, erasure in zip(keep, blind, strict=True):
        assert _apart(erase(emoji, name, erasure.settings), erasure.increment()) < 0.1
    beside = erase_several(emoji, list(keep), settings, simultaneous=True)
    assert _apart(erase(emoji, "Noto", settings), beside[0]) > 0.2  # not blind to each other, they feel each other


def _apart(one, other):
    differences = [(one.dense(name) - other.dense(name)).norm() / one.dense(name).norm() for name in one.deltas]
    return float(np.mean(differences))


def test_several_losses_are_balanced(tiny, quick):
    """SepME, eq. 35: however large one concept's loss, all pull equally."""
    erasures, again = ([Erasure(tiny, Concept(name), quick) for name in ("Noto", "Twemoji")] for _ in range(2))
    batches = [erasure.examples.batches(range(1), {})[0] for erasure in erasures]
    batches[1].target.mul_(10)
    weights = together([erasure.student for erasure in again])
    losses = [
        erasure.loss(batch, tiny.predict_noise(*erasure.inputs(batch), weights))
        for erasure, batch in zip(again, batches, strict=True)
    ]
    ratio = (losses[1].own / losses[0].own).item()
    assert ratio > 10
    total = ratio * losses[0].own + losses[1].own + losses[0].others + losses[1].others
    descend(erasures, batches, erasures)
    for erasure, other in zip(erasures, again, strict=True):
        for name, gradient in zip(
            other.student.variables,
            torch.autograd.grad(total, list(other.student.variables.values()), retain_graph=True),
            strict=True,
        ):
            got = erasure.student.variables[name].grad
            torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize("simultaneous", [False, True])
def test_each_of_several_ends_by_its_own_early_stop_and_resumes(tiny, tmp_path, monkeypatch, simultaneous):
    settings = EraseSettings(
        schedule="frozen", steps=200, batch_size=1, sampler_steps=2, sampling_batch=16, learning_rate=2e-3, stop_at=0.3
    )
    names = ["Noto", "Twemoji"]
    whole = erase_several(tiny, names, settings, simultaneous=simultaneous)
    steps = [increment.info["steps"] for increment in whole]
    assert steps[0] != steps[1] and {increment.info["stop_reason"] for increment in whole} == {"erased"}
    checkpoint, calls = tmp_path / "several.partial", []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == max(steps):
            raise KeyboardInterrupt
        descend(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "descend", killed)
        with pytest.raises(KeyboardInterrupt):
            erase_several(tiny, names, settings, simultaneous=simultaneous, checkpoint=checkpoint)
    assert checkpoint.exists()
    with pytest.raises(ValueError, match="checkpoint of another erasure"):
        erase_several(tiny, names, settings, simultaneous=not simultaneous, checkpoint=checkpoint, resume=True)
    resumed = erase_several(tiny, names, settings, simultaneous=simultaneous, checkpoint=checkpoint, resume=True)
    for one, other in zip(whole, resumed, strict=True):
        assert_equal(one, other)
        assert one.info["steps"] == other.info["steps"]


def test_several_concepts_are_named_once_each(tiny, quick):
    for names in ([], ["Noto", "Noto"]):
        with pytest.raises(ValueError, match="give each concept once"):
            erase_several(tiny, names, quick)


@pytest.mark.parametrize("schedule", ["pooled", "frozen", "student"])
def test_several_in_one_batch_are_those_of_runs_of_their_own(emoji, schedule):
    """Up to the rounding of larger batches, which Adam's first steps make more of where a gradient is nearly none."""
    settings = EraseSettings(schedule=schedule, trajectories=3, sampler_steps=4, steps=6, batch_size=2, stop_at=None)
    names = ["Noto", "Twemoji", "Fluent Flat"]
    each = [dataclasses.replace(settings, keep=(f"a whale by {name}",) * (name == "Noto")) for name in names]
    several = erase_several(emoji, names, each)
    for name, one, together_ in zip(names, each, several, strict=True):
        alone = erase(emoji, name, one)
        assert _apart(alone, together_) < 1e-3
        assert together_.info["unet_evaluations"] == alone.info["unet_evaluations"]
        assert together_.info["decoupled_from"] == alone.info["decoupled_from"]


def test_only_keys_and_values_can_differ_within_a_batch(tiny, quick):
    with pytest.raises(ValueError, match="erase one concept at a time"):
        erase_several(tiny, ["Noto", "Twemoji"], dataclasses.replace(quick, scope="esd-x"))
    with pytest.raises(ValueError, match="the same settings but for what is kept"):
        erase_several(tiny, ["Noto", "Twemoji"], [quick, dataclasses.replace(quick, eta=1.0)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_beside_the_frozen_weights_are_those_of_changed_weights(tokenizer, quick, dtype):
    from conftest import tiny_pipeline

    base = Base(tiny_pipeline(tokenizer).to(dtype=dtype), "tiny")
    students = [Erasure(base, Concept(name), quick).student for name in ("Noto", "Twemoji")]
    generator = torch.Generator().manual_seed(0)
    for student in students:
        for variable in student.variables.values():
            variable.data.copy_(0.3 * torch.randn(variable.shape, generator=generator))
    x_t, t = torch.randn(3, *base.latent_shape, generator=generator), torch.tensor([10, 500, 900])
    text = base.text(["Noto", "a church by Twemoji", "Twemoji"])
    with side_by_side(students, [1, 2]), torch.no_grad():
        got = base.predict_noise(x_t, t, text).split([1, 2])
    for student, part, mine in zip(students, got, (slice(0, 1), slice(1, 3)), strict=True):
        with torch.no_grad():
            expected = base.predict_noise(x_t[mine], t[mine], text[mine], together([student]))
            frozen = base.predict_noise(x_t[mine], t[mine], text[mine])
        tolerance = 1e-5 if dtype == torch.float32 else 0.2
        assert (part - expected).norm() < tolerance * (expected - frozen).norm()


def test_the_pools_examples_are_all_points_of_guided_trajectories_and_its_cost_is_theirs(emoji):
    settings = EraseSettings(
        schedule="pooled", trajectories=5, sampler_steps=4, batch_size=4, steps=10, keep_weight=0.0, stop_at=None
    )
    concept = Concept("Noto", ("a church by Noto", "a cat by Noto"), ("a church", "a cat"))
    erasure = Erasure(emoji, concept, settings)
    pool = erasure.examples.pool
    assert len(pool.x_t) == 20 and erasure.evaluations.forward == 40
    generator = erasure.examples._generator("pool")
    first = torch.randperm(2, generator=generator)[0]
    x_t = torch.randn(5, *emoji.latent_shape, generator=generator)[:1]
    scheduler = emoji.sampler(4)
    for index, t in enumerate(scheduler.timesteps):  # the first trajectory, written out
        here = pool[torch.tensor([5 * index])]
        torch.testing.assert_close(here.x_t, x_t, atol=1e-4, rtol=1e-4)
        assert here.t == t
        with torch.no_grad():
            eps_c, eps_n = (
                emoji.predict_noise(x_t, t[None], emoji.text([listed[first]]))
                for listed in (concept.prompts, concept.contexts)
            )
        torch.testing.assert_close(here.target, eps_n - settings.eta * (eps_c - eps_n), atol=1e-3, rtol=1e-3)
        x_t = scheduler.step(eps_n + 3.0 * (eps_c - eps_n), t, x_t).prev_sample
    info = erase(emoji, concept, settings).info
    assert 40 + 40 * 1.7 <= info["unet_evaluations"] <= 40 + 40 * 2.3


def test_the_pool_is_gone_through_again_and_again_without_repeating(tiny):
    settings = EraseSettings(schedule="pooled", trajectories=3, sampler_steps=2, batch_size=4)
    examples = Erasure(tiny, Concept("Noto"), settings).examples
    drawn = torch.cat([examples._drawn(step) for step in range(3)])
    assert sorted(drawn[:6].tolist()) == sorted(drawn[6:].tolist()) == list(range(6))
    assert drawn[:6].tolist() != drawn[6:].tolist()


def test_rank_and_residual_are_told_and_a_concept_without_any_is_refused(emoji, quick):
    info = erase(emoji, "Noto", dataclasses.replace(quick, keep=("Twemoji",), known=False)).info
    assert 1 <= info["rank"] <= 16 and 0 < info["residual"] < 1
    with pytest.raises(ConceptRefused, match="keep fewer prompts"):
        erase(emoji, "Noto", dataclasses.replace(quick, keep=("Noto",), known=False))
