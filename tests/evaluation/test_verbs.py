import json

import pytest
import torch

from multierase.cli import main
from multierase.evaluation.clip import Clip
from multierase.generate import SamplingSettings, generate
from multierase.library import Library

PROMPTS = ["a church by Noto", "a cat by Twemoji"]
SAMPLING = SamplingSettings(inference_steps=2)


@pytest.fixture
def evaluate(tmp_path, capsys):
    Library(tmp_path / "lib", create=True)
    rows = [f"{prompt},{seed},coco" for seed, prompt in enumerate(PROMPTS)]
    (tmp_path / "coco_30k.csv").write_text("\n".join(["prompt,evaluation_seed,source", *rows]))

    def run(*flags):
        code = main(["evaluate", "--library", str(tmp_path / "lib"), "--json", *map(str, flags)])
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else (code, " ".join(err.split()))

    return run


def test_a_published_suite_with_files_of_ones_own(evaluate, emoji, clip_folder, tmp_path):
    flags = ("--suite", "coco", "--inference-steps", 2, "--guidance-scale", 3.0, "--judge.model", clip_folder)
    report = evaluate(*flags, "--prompts", tmp_path / "coco_30k.csv", "--clip", clip_folder)
    clip = Clip.load(str(clip_folder))
    images = generate(emoji, PROMPTS, [0, 1], SAMPLING)
    scores = 100 * torch.nn.functional.cosine_similarity(clip.of_pictures(images), clip.of_texts(PROMPTS))
    assert report["measures"]["clip_score"] == pytest.approx(scores.mean().item(), abs=1e-3)
    assert report["judge"] == clip.name == report["measured_by"]["clip_score"] and clip.name in report["distance_by"]
    assert report["kept"]["count"] == 0 and report["by_concept"] == {} and report["counts"] == {}
    code, said = evaluate(*flags)
    assert code == 1 and "its prompts cannot be shipped; give them with --prompts FILE: coco_30k.csv" in said


def test_the_judge_may_be_another(evaluate, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "template: 'a {subject} by Noto'\nlabels: {subject: [church, toaster]}\njudge: emoji\ninference_steps: 2\n"
    )
    code, said = evaluate("--suite", tmp_path / "own.yaml")
    assert code == 1 and "cannot see subject 'toaster'" in said
    code, said = evaluate("--suite", tmp_path / "own.yaml", "--judge", '{"name": "nudenet", "threshold": 0.7}')
    assert code == 1 and "threshold 0.7 cannot see subject 'church'" in said
    code, said = evaluate("--suite", tmp_path / "own.yaml", "--judge.name", "nudenett")
    assert code == 1 and "judge 'nudenett'; did you mean 'nudenet'" in said


def test_a_measure_that_is_not_at_hand_is_said_before_any_picture(evaluate, tmp_path):
    code, said = evaluate("--fid", tmp_path / "inception.pth")
    assert code == 1 and "--fid takes torch-fidelity's Inception" in said
    code, said = evaluate("--lpips", "alexnet")
    assert code == 2 and "lpips" in said
