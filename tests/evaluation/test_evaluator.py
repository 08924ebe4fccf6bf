import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from multierase.evaluation.clip import Clip
from multierase.evaluation.database import Database
from multierase.evaluation.evaluator import Evaluator, Subject, reference_of
from multierase.evaluation.executors import Processes
from multierase.evaluation.judges import EmojiJudge
from multierase.evaluation.plans import plan
from multierase.evaluation.report import Results
from multierase.evaluation.sweep import sweep
from multierase.generate import SamplingSettings, generate, to_picture
from multierase.library import Library
from multierase.training import EraseSettings, erase

PROMPTS = ["a church by Noto", "a cat by Twemoji", "a dog by Noto"]
SAMPLING = SamplingSettings(inference_steps=3)
ALONE = Processes(1)


@pytest.fixture(scope="module")
def folder(emoji, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluator")
    library = Library(folder / "lib", create=True)
    settings = EraseSettings(schedule="pooled", trajectories=4, sampler_steps=6, steps=12, keep_weight=0.0)
    library.save(erase(emoji, "Noto", settings))
    rows = [f'{number},"{prompt}",{number},{prompt.split()[-1]}' for number, prompt in enumerate(PROMPTS)]
    (folder / "few.csv").write_text("\n".join(["case_number,prompt,evaluation_seed,studio", *rows]))
    (folder / "few.yaml").write_text("prompts: few.csv\nlabels: [studio]\njudge: emoji\ninference_steps: 3\n")
    (folder / "nude.yaml").write_text(
        "prompts: few.csv\nlabels: {nudity: [nudity]}\njudge: nudenet\ninference_steps: 3\nthumbnails: 0\n"
    )
    return folder


@pytest.fixture
def subject(folder):
    return Subject(library=str(folder / "lib"), suite=str(folder / "few.yaml"), device="cpu")


@pytest.fixture(scope="module")
def of_base(emoji):
    return generate(emoji, PROMPTS, [0, 1, 2], SAMPLING)


def test_measures_are_stored_by_picture(subject, clip_folder, of_base, tmp_path):
    subject = dataclasses.replace(subject, clip=str(clip_folder), batch_size=2)
    database = sweep(subject, plan("single", ["Noto"]), tmp_path / "one.db", executor=ALONE)
    results, settings = Results(database), database.settings()
    clip = Clip.load(str(clip_folder))
    scores = 100 * torch.nn.functional.cosine_similarity(clip.of_pictures(of_base), clip.of_texts(PROMPTS))
    stored = [picture.measures["clip_score"] for picture in results.seen(()).values()]
    np.testing.assert_allclose(stored, scores, atol=1e-3)
    measures = results.row(("Noto",))["measures"]
    here = [picture.measures["clip_score"] for picture in results.seen(("Noto",)).values()]
    assert measures == {"clip_score": here[1], "clip_score_erased": (here[0] + here[2]) / 2} and here != stored
    assert settings["measured_by"] == {"clip_score": clip.name}
    judge = EmojiJudge.load()
    assert settings["distance_by"] == f"cosine of {judge.features} ({judge.name})"
    assert settings["frechet_by"] == f"{judge.features} ({judge.name})" and settings["reference"] is None
    with pytest.raises(ValueError, match="other settings.*measured_by"):
        sweep(dataclasses.replace(subject, clip=None), [], tmp_path / "one.db")


class Difference:
    """To the base's picture, of every pixel."""

    key, name, of_base = "difference", "mean of |a − b|", True

    def __call__(self, images, prompts, base):
        return (images - base).abs().mean(dim=(1, 2, 3)).tolist()


def test_a_measure_against_the_base_gets_its_picture_of_the_same_case(subject, emoji, of_base):
    evaluator = Evaluator(dataclasses.replace(subject, batch_size=2))
    evaluator.eyes = dataclasses.replace(evaluator.eyes, measures=[Difference()])
    with evaluator.eraser.erased("Noto"):
        images = generate(evaluator.base, PROMPTS, [0, 1, 2], SAMPLING)
    expected = (images - of_base).abs().mean(dim=(1, 2, 3)).tolist()
    found = evaluator.look(("Noto",)).measures["difference"]
    assert found == pytest.approx(expected, abs=5e-4) and max(expected) > 0.1
    assert max(evaluator.look(()).measures["difference"]) < 1 / 500  # its pictures are kept as bytes


def test_nudity_is_counted_by_picture_and_beside_the_base(subject, folder, tmp_path):
    subject = dataclasses.replace(subject, suite=str(folder / "nude.yaml"))
    with pytest.raises(ValueError, match=r"asks for none of \['Noto'\].*it asks for \['nudity'\]"):
        sweep(subject, plan("single", ["Noto"]), tmp_path / "a.db")
    library = Library(folder / "nude", create=True)
    noto = Library(folder / "lib")["Noto"]
    library.save(dataclasses.replace(noto, info={**noto.info, "concept": "nudity"}))
    subject = dataclasses.replace(subject, library=str(library.folder))
    database = sweep(subject, plan("single", ["nudity"]), tmp_path / "a.db", executor=ALONE)
    row = Results(database).row(("nudity",))
    assert (row["erased"]["right"], row["erased"]["count"], row["ua"]) == (0, 3, 1.0)
    assert len(row["counts"]) == 9 and set(row["counts"].values()) == {0} and row["base_counts"] == row["counts"]
    stored = database.rows("SELECT counts, distance FROM pictures")
    assert len(stored) == 6 and {distance for _, distance in stored} == {None}
    assert json.loads(stored[0][0])["BELLY_EXPOSED"] == 0
    assert database.settings()["distance_by"] is None and row["frechet_distance"] is None
    assert database.rows("SELECT count(*) FROM thumbnails") == [(0,)]


def test_real_pictures_are_what_a_set_may_be_measured_against(subject, folder, of_base, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    for index, image in enumerate(of_base):
        to_picture(image).save(real / f"{index}.png")
    (real / "readme.txt").write_text("no picture")
    subject = dataclasses.replace(subject, reference=str(real))
    database = sweep(subject, plan("single", ["Noto"]), tmp_path / "a.db", executor=ALONE)
    rows = Results(database).rows()
    assert rows[0]["frechet_distance"] is None and rows[0]["reference_distance"] < 0.05  # but for the files' rounding
    assert rows[1]["reference_distance"] == pytest.approx(rows[1]["frechet_distance"], rel=0.05) and (
        rows[1]["frechet_distance"] > 10 * rows[0]["reference_distance"]
    )
    Image.new("RGB", (64, 64)).save(real / "3.png")
    with pytest.raises(ValueError, match="other settings.*reference"):
        sweep(subject, [], tmp_path / "a.db")


def test_references_that_cannot_be(subject, folder, tmp_path):
    eyes = subject.eyes()
    with pytest.raises(FileNotFoundError, match="no folder of pictures and no .npz at /no/where"):
        sweep(dataclasses.replace(subject, reference="/no/where"), [], tmp_path / "a.db")
    with pytest.raises(ValueError, match="0 pictures .*give two or more"):
        reference_of(str(folder / "lib"), eyes)
    np.savez(tmp_path / "coco.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ValueError, match="statistics are of Inception's features, give --fid"):
        reference_of(str(tmp_path / "coco.npz"), eyes)
    for name in "ab":
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
    nude = dataclasses.replace(subject, suite=str(folder / "nude.yaml")).eyes()
    with pytest.raises(ValueError, match="NudeNet.* has no features"):
        reference_of(str(tmp_path), nude)


def test_the_bases_features_are_read_once(subject, tmp_path):
    sweep(subject, [], tmp_path / "a.db", executor=ALONE).close()
    database = Database(tmp_path / "a.db")
    assert database.features() is database.features() and database.features().shape == (3, 192)


def test_prompts_are_encoded_once(subject):
    evaluator, calls = Evaluator(dataclasses.replace(subject, batch_size=2)), []
    evaluator.base.pipeline.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    first = evaluator.look(())
    once = len(calls)
    again = evaluator.look(())
    assert once > 0 and len(calls) == once
    np.testing.assert_array_equal(again.features, first.features)


def test_pictures_to_show_are_of_every_class_first(subject):
    assert Evaluator(dataclasses.replace(subject, thumbnails=2)).shown == {0, 1}
    evaluator = Evaluator(subject)
    assert evaluator.shown == {0, 1, 2} == set(evaluator.look(()).thumbnails)


def test_whole_paths_for_a_process_that_stands_elsewhere(folder, clip_folder, monkeypatch):
    """Those that the suite itself names too; hub ids and names stay."""
    monkeypatch.chdir(folder)
    clip = os.path.relpath(clip_folder)
    (folder / "clip.yaml").write_text(
        f"prompts: few.csv\nlabels: [studio]\nclip: {clip}\n"
        f"judge: {{name: clip, model: {clip}, studio: 'by {{label}}'}}\n"
    )
    (folder / "clip").mkdir()  # no judge's name is a folder
    subject = Subject(
        library="lib", suite="clip.yaml", prompts="few.csv", reference="lib", fid="few.csv", base="nota/tiny-sd"
    )
    assert subject.absolute() == dataclasses.replace(
        subject, library=str(folder / "lib"), suite=str(folder / "clip.yaml"), prompts=str(folder / "few.csv"),
        reference=str(folder / "lib"), fid=str(folder / "few.csv"), clip=str(clip_folder),
        judge={"name": "clip", "model": str(clip_folder), "studio": "by {label}"},
    )  # fmt: skip
    other = Subject(library="lib", suite="studios", judge={"name": "clip", "model": "openai/clip"}).absolute()
    assert (other.suite, other.base, other.clip) == ("studios", "emoji", None)
    assert other.judge == {"name": "clip", "model": "openai/clip"}
