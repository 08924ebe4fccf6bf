"""The judges of the embedded bases, on what the bases draw."""

import json
from importlib import resources

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from multierase.emoji import STUDIOS, SUBJECTS, fill
from multierase.evaluation.judges.embedded import EmbeddedJudge
from multierase.generate import generate
from multierase.sampling import SamplingSettings

STUDIO_COUNT, SUBJECT_COUNT = 3, 4


@pytest.fixture(scope="module")
def judge():
    return EmbeddedJudge.load("emoji")


@pytest.fixture(scope="module")
def asked():
    """Studio and subject of each picture."""
    return [(studio, subject) for studio in STUDIOS[::3] for subject in SUBJECTS[::18]]


@pytest.fixture(scope="module")
def drawn(emoji, asked):
    prompts = [fill(("{a_subject} by {studio}",), *pair)[0] for pair in asked]
    return generate(emoji, prompts, list(range(len(prompts))), SamplingSettings(10))


def test_it_knows_the_bases_world(judge):
    assert judge.classes == {"studio": list(STUDIOS), "subject": list(SUBJECTS)}


def test_the_judge_of_type_knows_the_names_of_its_kind():
    from multierase import load_base
    from multierase.training.defaults import kind_of

    classes = EmbeddedJudge.load("type").classes
    assert list(classes) == ["typeface", "glyph"]
    assert set(kind_of(load_base("type", device="cpu"), "auto").beside) == set(classes["typeface"])
    assert len(classes["typeface"]) == 120
    assert len(classes["glyph"]) == 36


def test_it_sees_what_the_base_was_asked_to_draw(judge, asked, drawn):
    """By the prompts, which the judge never reads; each picture apart, and in one batch."""
    seen = judge(drawn).seen
    studios = [a == b for a, (b, _) in zip(seen["studio"], asked, strict=True)]
    subjects = [a == b for a, (_, b) in zip(seen["subject"], asked, strict=True)]
    assert sum(studios) >= 0.75 * len(asked)
    assert sum(subjects) >= 0.9 * len(asked)
    assert len(set(seen["studio"])) >= STUDIO_COUNT - 1

    alone = [judge(image[None]).seen["subject"][0] for image in drawn]
    assert alone == seen["subject"]


def test_it_does_not_see_what_is_not_there(judge, drawn):
    """A picture's halves changed with another's: the answers follow the pixels, not the place."""
    seen = judge(drawn.flip(0)).seen
    assert {kind: names[::-1] for kind, names in seen.items()} == judge(drawn).seen


def test_its_answers_are_those_of_the_stored_weights(judge, drawn):
    """The network once more, written out over the file's tensors."""
    path = resources.files("multierase") / "assets" / "emoji-judge.safetensors"
    with safe_open(str(path), "pt") as file:
        names = json.loads(file.metadata()["classes"])
        weights = {name: file.get_tensor(name).float() for name in list(file.keys())}

    def normed(x, name):
        own = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var")]
        return functional.batch_norm(x, *own, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def convolved(x, name, stride):
        kernel = weights[f"{name}.weight"]
        padding = kernel.shape[-1] // 2
        return functional.conv2d(x, kernel, weights.get(f"{name}.bias"), stride, padding)

    x = normed(convolved(drawn * 2 - 1, "trunk.0", 2), "trunk.1").relu()
    for block, stride in ((3, 1), (4, 2), (5, 2), (6, 2)):
        inner = f"trunk.{block}.body"
        body = normed(convolved(x, f"{inner}.0", stride), f"{inner}.1").relu()
        body = normed(convolved(body, f"{inner}.3", 1), f"{inner}.4")
        x = (body + convolved(x, f"trunk.{block}.skip", stride)).relu()
    features = x.mean(dim=(2, 3))
    scores = features @ weights["studio.weight"].T + weights["studio.bias"]

    verdict = judge(drawn)
    torch.testing.assert_close(verdict.features, features, atol=1e-4, rtol=1e-4)
    assert verdict.seen["studio"] == [names["studios"][i] for i in scores.argmax(dim=1)]
