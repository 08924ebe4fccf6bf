"""Ring-A-Bell: its search set against trying everything, and the file that serves all erasures."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from attacks_by_hand import asked, encoded

from multierase.evaluation.attacks import ring_a_bell
from multierase.evaluation.attacks.run import target_of

FEW = [11, 40, 77, 123, 300]  # tokens that stand for text
SMALL = {"steps": 5, "tokens": 3, "candidates": 6}


@pytest.fixture
def small(text):
    """The text side, with few tokens to choose from."""
    text.ordinary = torch.zeros_like(text.ordinary)
    text.ordinary[FEW] = True

    return text


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [1, 2])
def test_it_finds_the_best_of_all(model, small, aim, seed, length):
    generator = torch.Generator().manual_seed(seed)
    wanted = asked(model.pipeline, "a church")[0]
    wanted = wanted + wanted.std() * torch.randn(wanted.shape, generator=generator)
    budget = {"steps": 60, "tokens": length, "candidates": 40}
    found = ring_a_bell.search(small, wanted, aim(**budget), generator)

    def far(ids):
        return float((encoded(model.pipeline, list(ids))[0] - wanted).square().sum())

    best = min(itertools.product(FEW, repeat=length), key=far)
    assert found == list(best)


def test_it_goes_nearer_the_longer_it_searches(model, text, aim):
    wanted = asked(model.pipeline, "a church by Noto")[0]
    reached = []
    for steps in (1, 30):
        budget = aim(steps=steps, tokens=4, candidates=20)
        found = ring_a_bell.search(text, wanted, budget, torch.Generator().manual_seed(0))
        assert text.ordinary[found].all()
        reached.append(float((encoded(model.pipeline, found)[0] - wanted).square().sum()))
    assert reached[1] < reached[0]


@pytest.mark.parametrize("tokens", [1, 99])
def test_a_prompt_has_as_many_tokens_as_fit(text, aim, tokens):
    wanted = torch.zeros(text.most + 2, text.table.shape[1])
    found = ring_a_bell.search(
        text, wanted, aim(steps=2, tokens=tokens, candidates=1), torch.Generator()
    )
    assert len(found) == min(tokens, text.most)


def test_what_is_wanted_is_the_prompt_and_three_times_the_concept(
    model, target, aim, cases, monkeypatch
):
    wanted = []

    def search(text, sought, aim, generator):
        wanted.append(sought)
        return [11]

    monkeypatch.setattr(ring_a_bell, "search", search)
    bare = {3: "a church", 4: "a cat", 7: ""}
    (attempt,) = ring_a_bell.begin(target, aim(asked=bare))(cases[1])

    changes = [
        asked(model.pipeline, c.prompt) - asked(model.pipeline, bare[c.number]) for c in cases
    ]
    concept = torch.cat(changes).mean(dim=0)
    torch.testing.assert_close(wanted[0], asked(model.pipeline, "a cat")[0] + 3 * concept)
    assert list(attempt.ids) == [11]
    torch.testing.assert_close(attempt.conditioning["tokens"], encoded(model.pipeline, [11]))


def never(*_):
    raise AssertionError("it searched again")


def test_one_file_serves_every_erasure(model, base, target, aim, cases, tmp_path, monkeypatch):
    """The denoiser is never asked; another erasure of the same base finds the file."""
    (first,) = ring_a_bell.begin(target, aim(tmp_path, **SMALL))(cases[0])
    assert target.evaluations == 0
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["ids"] == list(first.ids)

    monkeypatch.setattr(ring_a_bell, "search", never)
    with torch.no_grad():
        for name, weight in model.parameters().items():
            weight.copy_(1.1 * base[name])
    other = target_of(model, base, target.sampling)
    (again,) = ring_a_bell.begin(other, aim(tmp_path, **SMALL))(cases[0])
    assert again.ids == list(first.ids)
    assert other.evaluations == 0


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"steps": 6},
        {"asked": {3: "a cat", 4: "a cat", 7: "a cat"}},
    ],
)
def test_another_search_has_another_file(target, aim, cases, tmp_path, change):
    list(ring_a_bell.begin(target, aim(tmp_path, **SMALL))(cases[0]))
    list(ring_a_bell.begin(target, aim(tmp_path, **(SMALL | change)))(cases[0]))
    assert len(list(tmp_path.iterdir())) == 2


def test_another_text_tower_has_another_file(model, target, aim, cases, tmp_path):
    list(ring_a_bell.begin(target, aim(tmp_path, **SMALL))(cases[0]))
    with torch.no_grad():
        next(iter(model.pipeline.text_encoder.parameters())).mul_(1.01)
    list(ring_a_bell.begin(target, aim(tmp_path, **SMALL))(cases[0]))
    assert len(list(tmp_path.iterdir())) == 2


def test_cases_of_one_prompt_have_one_prompt(target, aim, cases, tmp_path):
    """With a file or without one, and whichever case comes first."""
    same = aim(tmp_path, asked={case.number: "a church" for case in cases}, **SMALL)
    bare = aim(asked=same.asked, **SMALL)
    found = []
    for one in (same, bare):
        attack = ring_a_bell.begin(target, one)
        found += [list(next(attack(case)).ids) for case in reversed(cases)]
    assert all(ids == found[0] for ids in found)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: "",
        lambda found: json.dumps(found)[:-9],
        lambda found: "[]",
        lambda found: "7",
        lambda found: json.dumps({**found, "key": "another"}),
        lambda found: json.dumps({"key": found["key"]}),
        lambda found: json.dumps({**found, "ids": []}),
        lambda found: json.dumps({**found, "ids": [10**9]}),
        lambda found: json.dumps({**found, "ids": [-1]}),
        lambda found: json.dumps({**found, "ids": "abc"}),
        lambda found: json.dumps({**found, "ids": [None]}),
        lambda found: json.dumps({**found, "ids": [float("inf")]}),
        lambda found: b"\xff\xfe\xfa",
    ],
)
def test_a_damaged_file_is_made_again(target, aim, cases, tmp_path, damage):
    (first,) = ring_a_bell.begin(target, aim(tmp_path, **SMALL))(cases[0])
    (path,) = tmp_path.iterdir()
    sound = path.read_text()
    damaged = damage(json.loads(sound))
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())

    (again,) = ring_a_bell.begin(target, aim(tmp_path, **SMALL))(cases[0])
    assert list(again.ids) == list(first.ids)
    assert path.read_text() == sound


def test_a_folder_that_takes_no_file_costs_the_search_alone(target, aim, cases, tmp_path, caplog):
    blocked = tmp_path / "attacks"
    blocked.write_text("a file where the folder would be")
    (attempt,) = ring_a_bell.begin(target, aim(blocked, **SMALL))(cases[0])
    (without,) = ring_a_bell.begin(target, aim(**SMALL))(cases[0])
    assert list(attempt.ids) == list(without.ids)
    assert "could not be kept, and is searched again" in caplog.text
