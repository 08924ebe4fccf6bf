import dataclasses

import numpy as np
import pytest
import torch

from multierase.errors import UsageError
from multierase.evaluation.evaluate import evaluate
from multierase.evaluation.evaluator import Evaluator, to_show
from multierase.evaluation.instruments import Instruments, load_instruments
from multierase.evaluation.judges.clip import Clip
from multierase.evaluation.report.rows import Rows, row_of
from multierase.evaluation.suites import suite_of
from multierase.evaluation.sweep import sweep
from multierase.executors.executor import one_thread
from multierase.executors.processes import Processes
from multierase.generate import generate
from multierase.sampling import SamplingSettings
from multierase.workspace import Workspace

pytestmark = pytest.mark.slow  # many pictures and programs

PROMPTS = ["a church by Noto", "a cat by Twemoji", "a cat by Firefox"]
SEEDS = [0, 1, 2]
SAMPLING = SamplingSettings(inference_steps=3)


@pytest.fixture(scope="module")
def bare(experiment):
    """Without a CLIP."""
    return dataclasses.replace(experiment, clip=None)


@pytest.fixture(scope="module")
def of_base(emoji):
    return generate(emoji, PROMPTS, SEEDS, SAMPLING)


def test_it_judges_what_generate_draws_of_a_workspace(bare):
    """The same pictures as of Python and the command line, by the judge's own features."""
    with one_thread():
        workspace = Workspace(bare.library, device="cpu")
        sampling = dataclasses.replace(SAMPLING, batch_size=2)
        workspace.erase("Noto")
        expected = workspace.generate(PROMPTS, SEEDS, sampling)
        workspace.composer.close()

        evaluator = Evaluator(bare)
        found = evaluator.observe(("Noto",))
    verdict = evaluator.instruments.judge(expected)
    assert found.seen == verdict.seen
    np.testing.assert_allclose(found.features, verdict.features, rtol=1e-6, atol=1e-6)


def test_a_loaded_model_and_its_eraser_are_used_as_they_are(bare, monkeypatch):
    """Nothing is loaded twice, and the state outside comes back."""
    workspace = Workspace(bare.library, device="cpu")
    instruments = load_instruments(bare)
    for name in ("load_base", "Workspace", "load_instruments"):
        monkeypatch.setattr(f"multierase.evaluation.evaluator.{name}", None)

    evaluator = Evaluator(
        bare, model=workspace.model, eraser=workspace.composer, instruments=instruments
    )
    workspace.erase("Twemoji")
    standing = evaluator.observe_now()
    both = evaluator.observe(("Noto",))
    assert dict(workspace.erased) == {"Twemoji": 1.0}
    workspace.restore_all()
    base = evaluator.observe(())

    states = [one.features for one in (standing, both, base)]
    assert not any(np.array_equal(a, b) for a, b in ((states[0], states[1]), states[1:]))
    row = row_of(evaluator.suite, ("Noto",), both, base)
    assert (row["remaining"]["count"], row["kept"]["count"]) == (1, 2)


def test_an_eraser_needs_the_model_that_it_changes(bare):
    with pytest.raises(UsageError, match="an eraser changes a model's weights: give that model"):
        Evaluator(bare, eraser=object())


class Difference:
    """To the base's picture, of every pixel."""

    key, name, of_base = "difference", "mean of |a − b|", True

    def __call__(self, images, prompts, base):
        return (images - base).abs().mean(dim=(1, 2, 3)).tolist()


def test_a_measure_against_the_base_gets_its_picture_of_the_same_case(bare, of_base):
    loaded = load_instruments(bare)
    instruments = dataclasses.replace(loaded, measures=[Difference()])
    evaluator = Evaluator(bare, instruments=instruments)
    with evaluator.eraser.erasing("Noto"):
        images = generate(evaluator.model, PROMPTS, SEEDS, SAMPLING)
    expected = (images - of_base).abs().mean(dim=(1, 2, 3)).tolist()

    found = evaluator.observe(("Noto",)).measures["difference"]
    assert found == pytest.approx(expected, abs=5e-4)
    assert max(expected) > 0.1
    # The base's pictures are kept as bytes.
    assert max(evaluator.observe(()).measures["difference"]) < 1 / 500


def test_measures_are_stored_by_picture(experiment, of_base, tmp_path):
    stages = [("", ("Noto",))]
    with sweep(experiment, stages, tmp_path / "one.db", executor=Processes(1)) as store:
        rows, settings = Rows(store), store.settings()
        stored = [one.measures["clip_score"] for one in rows.outcome(()).pictures.values()]
        here = [one.measures["clip_score"] for one in rows.outcome(("Noto",)).pictures.values()]
        measures = rows.row(("Noto",))["measures"]

    clip = Clip.load(experiment.clip)
    texts = clip.of_texts(PROMPTS)
    scores = 100 * torch.nn.functional.cosine_similarity(clip.of_pictures(of_base), texts)
    np.testing.assert_allclose(stored, scores, atol=1e-3)
    assert here != stored
    kept = pytest.approx((here[1] + here[2]) / 2)
    assert measures == {"clip_score": kept, "clip_score_erased": here[0]}
    assert settings["measured_by"] == {"clip_score": clip.name}


def test_prompts_are_encoded_once(bare):
    evaluator, calls = Evaluator(bare), []
    encoder = evaluator.model.pipeline.text_encoder
    encoder.register_forward_pre_hook(lambda *_: calls.append(1))

    first = evaluator.observe(())
    once = len(calls)
    again = evaluator.observe(())
    assert once > 0
    assert len(calls) == once
    np.testing.assert_array_equal(again.features, first.features)


def test_pictures_to_show_are_of_every_class_first(bare):
    suite = suite_of(bare)
    assert to_show(suite) == [0, 1, 2]
    assert to_show(dataclasses.replace(suite, thumbnails=2)) == [0, 1]
    reversed_ = dataclasses.replace(suite, cases=suite.cases[::-1] + suite.cases[:1])
    assert to_show(dataclasses.replace(reversed_, thumbnails=2)) == [2, 1]

    small = Evaluator(dataclasses.replace(bare, thumbnails=1)).observe(()).thumbnails
    assert set(small) == {0}
    assert small[0][8:12] == b"WEBP"


def test_with_and_without_a_database_the_numbers_are_the_same(experiment, tmp_path):
    observed = evaluate({"increments": experiment}, ["Noto"])
    stored = evaluate({"increments": experiment}, ["Noto"], database=tmp_path / "a.db")

    assert list(observed.rows) == ["base", "increments"]
    assert repr(observed.rows) == repr(stored.rows)  # nan is not equal to nan
    assert observed.by_concept == stored.by_concept
    assert observed.made == stored.made
    report = observed.report()
    assert report["remaining"]["count"] == 1
    assert report["restored"]["value"] is None
    assert report["by_concept"]["Noto"]["count"] == 1
    assert report["method"] == "increments"


def test_several_methods_share_model_judge_and_base(experiment, monkeypatch):
    counts = {"judge": 0, "base": 0}
    load, observe = Instruments.observe, Evaluator.observe

    def counted(self, concepts):
        counts["base"] += not concepts
        return observe(self, concepts)

    monkeypatch.setattr(Evaluator, "observe", counted)
    own = {m: dataclasses.replace(experiment, method=m) for m in ("increments", "uce")}
    both = evaluate(own, ["Noto"])
    assert counts["base"] == 1
    assert load is Instruments.observe
    assert list(both.rows) == ["base", "increments", "uce"]
    assert set(both.report()["methods"]) == {"increments", "uce"}

    alone = evaluate({"uce": own["uce"]}, ["Noto"])
    assert repr(alone.rows["uce"]) == repr(both.rows["uce"])


def test_the_judge_is_loaded_once_an_evaluation(experiment, monkeypatch, tmp_path):
    from multierase.evaluation.judges.embedded import EmbeddedJudge

    load, calls = EmbeddedJudge.load.__func__, []
    monkeypatch.setattr(
        EmbeddedJudge, "load", classmethod(lambda c, base: calls.append(1) or load(c, base))
    )
    evaluate({"increments": experiment}, ["Noto"])
    assert len(calls) == 1
    sweep(experiment, [], tmp_path / "a.db", executor=Processes(1)).close()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("erased", "message"),
    [
        (["Noto", "Noto"], "given twice: \\['Noto'\\]"),
        (["Notto"], "Notto"),
    ],
)
def test_concepts_that_cannot_be_erased(experiment, erased, message):
    with pytest.raises(Exception, match=message) as caught:
        evaluate({"increments": experiment}, erased)
    assert type(caught.value).__module__ == "multierase.errors"


def test_a_database_is_of_one_method(experiment, tmp_path):
    own = {m: dataclasses.replace(experiment, method=m) for m in ("increments", "uce")}
    with pytest.raises(UsageError, match="a database is of one method"):
        evaluate(own, ["Noto"], database=tmp_path / "a.db")
    assert not (tmp_path / "a.db").exists()
