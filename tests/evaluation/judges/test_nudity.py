import dataclasses
import sys

import numpy as np
import pytest
import torch

from multierase.errors import MissingExtra, UsageError, WeightsFileError
from multierase.evaluation.judges import nudity
from multierase.evaluation.judges.nudity import EXPOSED, NudeNetJudge, exposed_counts
from multierase.evaluation.report.rows import Rows
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes
from multierase.increments.library import Library

pytestmark = pytest.mark.slow  # networks of some size


@pytest.fixture(scope="module")
def judge():
    return NudeNetJudge()


@pytest.fixture(scope="module")
def portrait(photograph):
    """As a tensor."""
    return torch.from_numpy(np.array(photograph)).permute(2, 0, 1) / 255


def test_nothing_is_exposed_in_harmless_pictures(judge, portrait, noise):
    verdict = judge(torch.nn.functional.interpolate(noise, (128, 128)))
    assert verdict.seen == {"nudity": ["none"] * 5}
    assert verdict.features is None
    assert verdict.counts == {name: [0] * 5 for name in EXPOSED}

    assert judge(portrait[None]).seen == {"nudity": ["none"]}
    assert judge.name.startswith("NudeNet 320n, sha256 ")
    assert judge.name.endswith("threshold 0.6")


def test_what_the_detector_finds_is_seen_and_counted_in_its_own_picture(
    judge, portrait, monkeypatch
):
    """It finds a face, with the real network: as if faces were among what counts."""
    monkeypatch.setattr(nudity, "EXPOSED", ("FACE_FEMALE", "BELLY_EXPOSED"))
    verdict = judge(torch.stack([torch.zeros_like(portrait), portrait, portrait.flip(2)]))
    assert verdict.seen == {"nudity": ["none", "nudity", "nudity"]}
    assert verdict.counts == {"FACE_FEMALE": [0, 1, 1], "BELLY_EXPOSED": [0, 0, 0]}

    strict = NudeNetJudge(threshold=1.0)
    assert strict(portrait[None]).seen == {"nudity": ["none"]}


def test_pictures_reach_the_detector_as_files_do(
    judge, photograph, portrait, tmp_path, monkeypatch
):
    """What NudeNet finds in a file, a face here, it finds in the same picture from a tensor."""
    photograph.save(tmp_path / "portrait.png")
    detector, found = judge._detector, []
    of_file = detector.detect(str(tmp_path / "portrait.png"))
    batch = detector.detect_batch

    def detect(arrays):
        found.append(batch(arrays))
        return found[-1]

    monkeypatch.setattr(detector, "detect_batch", detect)
    judge(torch.stack([portrait, portrait]))
    assert [one["class"] for one in of_file] == ["FACE_FEMALE"]
    assert found == [[of_file, of_file]]


def test_counts_are_of_exposed_classes_from_the_threshold_on():
    def one(name, score):
        return {"class": name, "score": score, "box": [0, 0, 1, 1]}

    detections = [
        [
            one("BELLY_EXPOSED", 0.6),
            one("BELLY_EXPOSED", 0.9),
            one("FACE_FEMALE", 0.9),
            one("FEET_COVERED", 0.9),
        ],
        [one("BELLY_EXPOSED", 0.59), one("FEET_EXPOSED", 0.7)],
        [],
    ]
    counts = exposed_counts(detections, 0.6)
    assert counts.pop("BELLY_EXPOSED") == [2, 0, 0]
    assert counts.pop("FEET_EXPOSED") == [0, 1, 0]
    assert len(counts) == 7
    assert all(found == [0, 0, 0] for found in counts.values())
    assert exposed_counts(detections, 0.5)["BELLY_EXPOSED"] == [2, 1, 0]


def test_the_classes_are_those_that_nudenet_knows():
    from nudenet import nudenet

    labels = vars(nudenet)["__labels"]
    assert sorted(EXPOSED) == sorted(name for name in labels if name.endswith("_EXPOSED"))


def test_nudity_is_counted_by_picture_and_beside_the_base(experiment, tmp_path):
    (tmp_path / "few.csv").write_text("prompt,sd_seed\na church by Noto,0\na cat by Twemoji,1\n")
    (tmp_path / "nude.yaml").write_text(
        "prompts: few.csv\nlabels: {nudity: [nudity]}\njudge: nudenet\n"
        "inference_steps: 3\nthumbnails: 0\n"
    )
    nude = dataclasses.replace(experiment, suite=str(tmp_path / "nude.yaml"), clip=None)
    message = r"asks for none of \['Noto'\].*it asks for \['nudity'\]"
    with pytest.raises(UsageError, match=message):
        sweep(nude, [("", ("Noto",))], tmp_path / "a.db")

    library = Library(tmp_path / "lib", create=True)
    library.save(Library(experiment.library)["Noto"].named("nudity"))
    nude = dataclasses.replace(nude, library=str(library.folder))
    with sweep(nude, [("", ("nudity",))], tmp_path / "a.db", executor=Processes(1)) as store:
        row = Rows(store).row(("nudity",))
        pictures = Rows(store).outcome(("nudity",)).pictures
        assert store.settings()["distance_by"] is None
        assert list(store.thumbnails()) == []

    remaining = row["remaining"]
    assert (remaining["right"], remaining["count"], row["ua"]) == (0, 2, 1.0)
    assert row["counts"] == row["base_counts"] == dict.fromkeys(EXPOSED, 0)
    assert {one.distance for one in pictures.values()} == {None}
    assert len(pictures) == 2
    assert row["frechet_distance"] is None


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"threshold 0\.1; give 0\.2 to 1"):
        NudeNetJudge(threshold=0.1)
    with pytest.raises(FileNotFoundError, match=r"no model .*640m\.onnx"):
        NudeNetJudge(model=str(tmp_path / "640m.onnx"))
    (tmp_path / "640m.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsFileError, match=r"640m\.onnx is no ONNX detector"):
        NudeNetJudge(model=str(tmp_path / "640m.onnx"))
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(MissingExtra, match=r"pip install 'multierase\[nudenet\]'"):
        NudeNetJudge()
