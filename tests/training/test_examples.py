"""What an erasure learns from, against the paper's formulas."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trained import erasure_of, plan_of

from multierase import Concept, EraseSettings, erase

SENTENCES = ("Noto", "a church by Noto", "Noto art")
POOLED = EraseSettings(
    kind="none",
    eta=3.0,
    schedule="pooled",
    trajectories=5,
    prompts_per_point=1,
    start_at=1.0,
    sampler_steps=4,
    batch_size=4,
)


def rows_of(conditioning):
    return {tuple(row.flatten().tolist()) for row in conditioning["tokens"]}


@pytest.mark.parametrize("schedule", ["pooled", "frozen"])
def test_several_prompts_are_all_used(tiny, schedule):
    settings = dataclasses.replace(POOLED, schedule=schedule)
    examples = erasure_of(tiny, Concept("Noto", SENTENCES), settings).examples
    batches = examples.batches(range(5), {})  # twenty latents: the whole pool
    seen = set().union(*(rows_of(batch.text) for batch in batches))
    assert seen == rows_of(tiny.encode(SENTENCES))


def test_the_pool_has_as_many_trajectories_of_each_prompt_as_it_can(tiny):
    settings = dataclasses.replace(POOLED, trajectories=7)
    pool = erasure_of(tiny, Concept("Noto", SENTENCES), settings).examples.pool
    counts = []
    for prompt in SENTENCES:
        row = tiny.encode([prompt])["tokens"]
        counts.append(int((pool.text["tokens"] == row).flatten(1).all(dim=1).sum()) // 4)
    assert sorted(counts) == [2, 2, 3]


def test_erase_from_and_anchor(tiny, quick):
    concept = Concept("hat", erase_from="cowboy")
    (batch,) = erasure_of(tiny, concept, quick).examples.batches(range(1), {})
    count = len(batch.x_t)
    cowboy, hat, null = (tiny.encode([prompt] * count) for prompt in ("cowboy", "hat", ""))
    eps = [tiny.predict(batch.x_t, batch.t, text) for text in (cowboy, hat, null)]
    torch.testing.assert_close(batch.text["tokens"], cowboy["tokens"])
    target = eps[0] - quick.eta * (eps[1] - eps[2])
    torch.testing.assert_close(batch.target, target, atol=1e-5, rtol=1e-4)
    assert erase(tiny, concept, quick).provenance.erase_from == "cowboy"


def test_an_anchor_takes_the_contexts_place_in_the_first_term(tiny, quick):
    concept = Concept("Noto", anchor="a cat")
    (batch,) = erasure_of(tiny, concept, quick).examples.batches(range(1), {})
    count = len(batch.x_t)
    texts = (tiny.encode([prompt] * count) for prompt in ("a cat", "Noto", ""))
    anchor, own, null = (tiny.predict(batch.x_t, batch.t, text) for text in texts)
    target = anchor - quick.eta * (own - null)
    torch.testing.assert_close(batch.target, target, atol=1e-5, rtol=1e-4)
    assert rows_of(batch.text) == rows_of(tiny.encode(["Noto"]))
    assert erase(tiny, concept, quick).provenance.anchor == "a cat"


@pytest.mark.parametrize("schedule", ["pooled", "frozen"])
def test_a_sentences_context_takes_the_place_of_the_empty_prompt(tiny, quick, schedule):
    concept = Concept("Noto", ("a church by Noto",), contexts=("a church",))
    settings = dataclasses.replace(quick, schedule=schedule)
    (batch,) = erasure_of(tiny, concept, settings).examples.batches(range(1), {})
    count = len(batch.x_t)
    church, sentence = (tiny.encode([p] * count) for p in ("a church", "a church by Noto"))
    eps_context, eps_concept = (
        tiny.predict(batch.x_t, batch.t, text) for text in (church, sentence)
    )
    target = eps_context - quick.eta * (eps_concept - eps_context)
    torch.testing.assert_close(batch.target, target, atol=1e-5, rtol=1e-4)


def test_the_pool_is_all_points_of_guided_trajectories_and_its_cost_is_theirs(emoji):
    settings = dataclasses.replace(POOLED, steps=10, stop_at=None)
    concept = Concept("Noto", ("a church by Noto", "a cat by Noto"), ("a church", "a cat"))
    erasure = erasure_of(emoji, concept, settings)
    pool = erasure.examples.pool
    assert len(pool.x_t) == 20
    assert erasure.evaluations.forward == 40

    generator = erasure.examples._generator("pool")
    first = torch.randperm(2, generator=generator)[0]
    x_t = torch.randn(5, *emoji.latent_shape, generator=generator)[:1]
    sampler = emoji.sampler(4)
    for index, t in enumerate(sampler.timesteps):  # the first trajectory, written out
        here = pool.take(torch.tensor([5 * index]))
        torch.testing.assert_close(here.x_t, x_t, atol=1e-4, rtol=1e-4)
        assert here.t == t
        with torch.no_grad():
            eps_c, eps_n = (
                emoji.predict(x_t, t[None], emoji.encode([listed[first]]))
                for listed in (concept.prompts, concept.contexts)
            )
        target = eps_n - settings.eta * (eps_c - eps_n)
        torch.testing.assert_close(here.target, target, atol=1e-3, rtol=1e-3)
        x_t = sampler.step(eps_n + 3.0 * (eps_c - eps_n), index, x_t)

    spent = erase(emoji, concept, settings).provenance.cost.evaluations
    assert 40 + 40 * 1.7 <= spent <= 40 + 40 * 2.3


def test_other_prompts_are_asked_for_at_each_point_and_their_cost_is_counted(tiny):
    subjects = [
        f"a {one} by Noto" for one in ("cat", "tree", "house", "star", "boat", "owl", "hat")
    ]
    concept = Concept("Noto", tuple(subjects), tuple(p.removesuffix(" by Noto") for p in subjects))
    settings = dataclasses.replace(POOLED, trajectories=2, sampler_steps=3, prompts_per_point=3)
    erasure = erasure_of(tiny, concept, settings)
    pool = erasure.examples.pool
    assert len(pool) == 2 * 3 * 3
    assert erasure.evaluations.forward == 2 * 2 * 3 * 3
    assert rows_of(pool.text) == rows_of(tiny.encode(subjects))

    alone = dataclasses.replace(settings, prompts_per_point=1)
    points = erasure_of(tiny, concept, alone).examples.pool
    for index, (x_t, t) in enumerate(zip(points.x_t, points.t, strict=True)):
        place, trajectory = divmod(index, 2)
        asked = pool.take(torch.arange(3) * 2 + trajectory + place * 6)
        assert all(torch.equal(one, x_t) for one in asked.x_t)
        assert asked.t.tolist() == [t] * 3
        assert len(rows_of(asked.text)) == 3  # the trajectory's own, and two that are new
        eps = tiny.predict(asked.x_t, asked.t, asked.text)
        torch.testing.assert_close(asked.eps_concept, eps, atol=1e-5, rtol=1e-4)


def test_a_name_alone_is_asked_for_once_at_each_point(tiny):
    settings = dataclasses.replace(POOLED, prompts_per_point=3)
    erasure, alone = (erasure_of(tiny, "Noto", each) for each in (settings, POOLED))
    assert torch.equal(erasure.examples.pool.x_t, alone.examples.pool.x_t)
    assert erasure.evaluations.forward == alone.evaluations.forward == 2 * 5 * 4


def test_the_pool_is_gone_through_again_and_again_without_repeating(tiny):
    settings = EraseSettings(trajectories=3, prompts_per_point=1, sampler_steps=2, batch_size=4)
    examples = erasure_of(tiny, "Noto", settings).examples
    drawn = torch.cat([examples._drawn(step) for step in range(3)])
    assert sorted(drawn[:6].tolist()) == sorted(drawn[6:].tolist()) == list(range(6))
    assert drawn[:6].tolist() != drawn[6:].tolist()


def test_kept_prompts_are_drawn_and_asked_of_the_base(tiny, quick):
    settings = dataclasses.replace(quick, keep=("a cat", "a dog"), keep_weight=1.0, decouple=False)
    assert plan_of(tiny, "Noto", settings).kept == ("a cat", "a dog")
    batches = erasure_of(tiny, "Noto", settings).examples.batches(range(6), {})
    drawn = set().union(*(rows_of(batch.kept) for batch in batches))
    assert drawn == rows_of(tiny.encode(["a cat", "a dog"]))
    for batch in batches:
        asked = tiny.predict(batch.x_t, batch.t, batch.kept)
        torch.testing.assert_close(batch.eps_kept, asked, atol=1e-5, rtol=1e-4)
