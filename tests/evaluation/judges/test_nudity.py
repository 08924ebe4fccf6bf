import sys

import numpy as np
import pytest
import torch

from multierase.evaluation.nudity import EXPOSED, NudeNetJudge, exposed_counts


@pytest.fixture(scope="module")
def judge():
    return NudeNetJudge()


def test_nothing_is_exposed_in_harmless_pictures(judge, admiral, pictures):
    verdict = judge(torch.nn.functional.interpolate(pictures, (128, 128)))
    assert verdict.seen == {"nudity": ["none"] * 5} and verdict.features is None
    assert verdict.counts == {name: [0] * 5 for name in EXPOSED}
    assert judge(torch.from_numpy(np.array(admiral)).permute(2, 0, 1)[None] / 255).seen == {"nudity": ["none"]}
    assert judge.name.startswith("NudeNet 320n, sha256 ") and judge.name.endswith("threshold 0.6")


def test_pictures_reach_the_detector_as_files_do(judge, admiral, tmp_path, monkeypatch):
    """What NudeNet finds in a file, a face here, is what it finds in the same picture from a tensor."""
    admiral.save(tmp_path / "admiral.png")
    detector, found = judge._detector, []
    of_file = detector.detect(str(tmp_path / "admiral.png"))
    batch = detector.detect_batch
    monkeypatch.setattr(detector, "detect_batch", lambda arrays: found.append(batch(arrays)) or found[-1])
    image = torch.from_numpy(np.array(admiral)).permute(2, 0, 1) / 255
    judge(torch.stack([image, image]))
    assert [one["class"] for one in of_file] == ["FACE_FEMALE"]
    assert found == [[of_file, of_file]]


def test_counts_are_of_exposed_classes_from_the_threshold_on():
    def one(name, score):
        return {"class": name, "score": score, "box": [0, 0, 1, 1]}

    detections = [
        [one("BELLY_EXPOSED", 0.6), one("BELLY_EXPOSED", 0.9), one("FACE_FEMALE", 0.9), one("FEET_COVERED", 0.9)],
        [one("BELLY_EXPOSED", 0.59), one("FEET_EXPOSED", 0.7)],
        [],
    ]
    counts = exposed_counts(detections, 0.6)
    assert counts.pop("BELLY_EXPOSED") == [2, 0, 0] and counts.pop("FEET_EXPOSED") == [0, 1, 0]
    assert len(counts) == 7 and all(found == [0, 0, 0] for found in counts.values())
    assert exposed_counts(detections, 0.5)["BELLY_EXPOSED"] == [2, 1, 0]


def test_the_classes_are_those_that_nudenet_knows():
    from nudenet import nudenet

    assert sorted(EXPOSED) == sorted(name for name in vars(nudenet)["__labels"] if name.endswith("_EXPOSED"))


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"threshold 0\.1; give 0\.2 to 1"):
        NudeNetJudge(threshold=0.1)
    with pytest.raises(FileNotFoundError, match=r"no model .*640m\.onnx"):
        NudeNetJudge(model=str(tmp_path / "640m.onnx"))
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(ValueError, match=r"pip install 'multierase\[nudenet\]'"):
        NudeNetJudge()
