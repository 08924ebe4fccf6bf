"""An interrupted run goes on to the same bits; a file that is no checkpoint of it is refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
import stat

import pytest
import torch
from trained import assert_same_bits, erasure_of, plan_of

from multierase import Concept, EraseSettings, erase, erase_several
from multierase.errors import CheckpointError, WriteError
from multierase.training import loop
from multierase.training.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from multierase.training.loop import train

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure

SETTINGS = EraseSettings(steps=40, batch_size=1, sampler_steps=2, sampling_batch=16, stop_at=None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "noto.partial"


def interrupted(monkeypatch, at: int, *args, **kwargs) -> None:
    """Train until the ``at``-th step, in which somebody presses Ctrl-C."""
    whole, calls = loop.descend, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "descend", killed)
        with pytest.raises(KeyboardInterrupt):
            train(*args, **kwargs)


@pytest.mark.parametrize("method", ["esd", "sepme"])
@pytest.mark.parametrize(
    "schedule", ["pooled", "frozen", pytest.param("student", marks=pytest.mark.slow)]
)
def test_resumed_is_uninterrupted(tiny, path, monkeypatch, schedule, method):
    objective = {"esd": "esd", "sepme": "correlation"}[method]
    settings = dataclasses.replace(SETTINGS, schedule=schedule)
    whole = erase(tiny, "Noto", settings, method=method)
    plans = [plan_of(tiny, "Noto", settings, objective)]
    interrupted(monkeypatch, 36, tiny, plans, method, checkpoint=path)
    assert path.exists()

    learned = []
    descend = loop.descend
    monkeypatch.setattr(loop, "descend", lambda *some: learned.append(1) or descend(*some))
    (resumed,) = train(tiny, plans, method, checkpoint=path, resume=True)
    assert len(learned) == 40 - 32
    assert_same_bits(whole, resumed)
    assert path.exists()  # whoever saves the increment removes it

    learned.clear()
    (again,) = train(tiny, plans, method, checkpoint=path, resume=True)
    assert learned == []  # it was at its end
    assert_same_bits(whole, again)


@pytest.mark.parametrize("optimizer", ["adam", "adam8bit"])
def test_two_factors_and_moments_of_8_bits_resume(tiny, path, monkeypatch, optimizer):
    pytest.importorskip("bitsandbytes")
    settings = dataclasses.replace(SETTINGS, scope="full", rank=2, optimizer=optimizer)
    whole = erase(tiny, "Noto", settings)
    plans = [plan_of(tiny, "Noto", settings)]
    interrupted(monkeypatch, 36, tiny, plans, "esd", checkpoint=path)
    (resumed,) = train(tiny, plans, "esd", checkpoint=path, resume=True)
    assert_same_bits(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("simultaneous", [False, True])
def test_each_of_several_ends_by_its_own_early_stop_and_resumes(
    tiny, path, monkeypatch, simultaneous
):
    settings = dataclasses.replace(
        SETTINGS,
        schedule="frozen",
        start_at=1.0,
        steps=200,
        learning_rate=2e-3,
        stop_at=0.3,
    )
    names = ["Noto", "Twemoji"]
    whole = erase_several(tiny, names, settings, simultaneous=simultaneous)
    steps = [increment.provenance.stop.steps for increment in whole]
    assert steps[0] != steps[1]
    assert {increment.provenance.stop.reason for increment in whole} == {"erased"}

    def plans(together):
        beside = names if together else []
        return [plan_of(tiny, name, settings, beside=beside) for name in names]

    options = {"checkpoint": path, "simultaneous": simultaneous}
    interrupted(monkeypatch, max(steps), tiny, plans(simultaneous), "esd", **options)
    other = {"checkpoint": path, "simultaneous": not simultaneous, "resume": True}
    with pytest.raises(CheckpointError, match="checkpoint of another erasure: beside"):
        train(tiny, plans(not simultaneous), "esd", **other)
    resumed = train(tiny, plans(simultaneous), "esd", resume=True, **options)
    for one, again in zip(whole, resumed, strict=True):
        assert_same_bits(one, again)


@pytest.fixture
def saved(tiny, quick, path):
    erasure = erasure_of(tiny, "Noto", quick)
    save_checkpoint([erasure], path)
    return erasure


OTHERS = {
    "settings.eta is 3.0 there, 4.0 here": {"eta": 4.0},
    "settings.seed is 0 there, 7 here": {"seed": 7},
    "settings.scope is 'esd-x-strict' there, 'esd-x' here": {"scope": "esd-x"},
}


@pytest.mark.parametrize("difference", OTHERS)
def test_a_checkpoint_of_other_settings_says_in_one_line_what_differs(
    tiny, quick, path, saved, difference
):
    other = erasure_of(tiny, "Noto", dataclasses.replace(quick, **OTHERS[difference]))
    with pytest.raises(CheckpointError, match="checkpoint of another erasure") as error:
        load_checkpoint([other], path)
    message = str(error.value)
    assert difference in message
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    assert path.exists()


def test_a_checkpoint_of_another_concept_or_number_of_concepts(tiny, quick, path, saved):
    other = erasure_of(tiny, Concept("Noto", ("a cat by Noto",)), quick)
    with pytest.raises(CheckpointError, match="concept.prompts"):
        load_checkpoint([other], path)
    with pytest.raises(CheckpointError, match="of 1 concepts, 2 are to be erased"):
        load_checkpoint([saved, other], path)


class Bomb:
    """A pickle that runs code when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_never_does(tiny, quick, path, saved, tmp_path):
    harm = tmp_path / "harm"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Bomb(harm))),
        lambda: torch.save([{"key": Bomb(harm)}], path),
    ):
        write()
        with pytest.raises(CheckpointError, match="is damaged"):
            load_checkpoint([saved], path)
        assert not harm.exists()


def states(path):
    return torch.load(path, weights_only=True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("hello")


def no_states(path):
    torch.save({"a": 1}, path)


def no_key(path):
    torch.save([{}], path)


def key_is_no_json(path):
    torch.save([{**states(path)[0], "key": "{"}], path)


def key_is_deep(path):
    torch.save([{**states(path)[0], "key": "[" * 100_000}], path)


def variable_of_another_shape(path):
    (state,) = states(path)
    name = next(iter(state["variables"]))
    state["variables"][name] = state["variables"][name][:1].clone()
    torch.save([state], path)


def moments_of_another_shape(path):
    (state,) = states(path)
    entry = {"step": torch.tensor(1.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    state["optimizer"]["state"] = {0: entry}
    torch.save([state], path)


def variables_missing(path):
    torch.save([{**states(path)[0], "variables": {}}], path)


def numbers_are_not_finite(path):
    (state,) = states(path)
    next(iter(state["variables"].values())).fill_(torch.nan)
    torch.save([state], path)


def step_is_text(path):
    torch.save([{**states(path)[0], "step": "three"}], path)


def step_is_negative(path):
    torch.save([{**states(path)[0], "step": -5}], path)


def a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [
    cut,
    empty,
    text,
    no_states,
    no_key,
    key_is_no_json,
    key_is_deep,
    variable_of_another_shape,
    moments_of_another_shape,
    variables_missing,
    numbers_are_not_finite,
    step_is_text,
    step_is_negative,
    a_folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_nothing_else(tiny, quick, path, saved, damage):
    damage(path)
    with pytest.raises(CheckpointError) as error:
        train(tiny, [plan_of(tiny, "Noto", quick)], "esd", checkpoint=path, resume=True)
    assert "\n" not in str(error.value)


def test_a_symlink_in_its_place_is_replaced_not_followed(tiny, quick, path, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    path.symlink_to(precious)
    save_checkpoint([erasure_of(tiny, "Noto", quick)], path)
    assert precious.read_text() == "mine"
    assert stat.S_ISREG(path.lstat().st_mode)


def test_its_temporary_name_cannot_be_guessed(tiny, quick, path, monkeypatch):
    names = []
    whole = torch.save

    def noted(value, file):
        names.append(file.name)
        whole(value, file)

    monkeypatch.setattr(torch, "save", noted)
    erasure = erasure_of(tiny, "Noto", quick)
    for _ in range(2):
        save_checkpoint([erasure], path)
    assert len(set(names)) == 2
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_that_cannot_be_written(tiny, quick, path, saved, monkeypatch):
    before = path.read_bytes()

    def full(value, file):
        file.write_bytes(b"half")
        raise RuntimeError("unexpected pos 64 vs 0")  # torch's words for a full disk

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match="cannot write"):
        save_checkpoint([saved], path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_its_name_says_for_which_concepts(tmp_path):
    paths = {checkpoint_path(tmp_path, names) for names in (["a"], ["a", "b"], ["b", "a"], ["A"])}
    assert len(paths) == 4
    assert checkpoint_path(tmp_path, ["a", "b"]) == checkpoint_path(tmp_path, ("a", "b"))
    long = checkpoint_path(tmp_path, ["ピ" * 200, "x" * 200])
    assert len(long.name.encode()) <= 255
