import json
import shutil

import pytest
import torch

from multierase.errors import WeightsFileError
from multierase.evaluation.instruments import load_judge
from multierase.evaluation.judges.clip import Clip
from multierase.evaluation.suites import load_suite


@pytest.fixture
def suite_file(tmp_path, clip_folder):
    (tmp_path / "few.csv").write_text(
        "case_number,prompt,evaluation_seed,studio\n0,x,0,Noto\n1,x,0,Twemoji\n2,x,0,Firefox\n"
    )
    (tmp_path / "few.yaml").write_text(
        "prompts: few.csv\nlabels: [studio]\n"
        f"judge: {{name: clip, model: {clip_folder}, studio: 'a picture by {{label}}'}}\n"
    )
    return tmp_path / "few.yaml"


def test_clip_is_asked_for_the_nearest_sentence(suite_file, noise):
    """The answer once more by the model's own forward pass, on files."""
    judge = load_judge(load_suite(suite_file))
    assert judge.classes == {"studio": ["Noto", "Twemoji", "Firefox"]}
    assert "sha256" in judge.name

    inputs = judge.clip.processor(
        text=[f"a picture by {label}" for label in judge.classes["studio"]],
        images=list((noise * 255).byte()),
        return_tensors="pt",
        padding=True,
        truncation=True,
    )
    with torch.no_grad():
        logits = judge.clip.model(**inputs).logits_per_image
    verdict = judge(noise)
    nearest = logits.argmax(dim=1).tolist()
    assert verdict.seen["studio"] == [judge.classes["studio"][i] for i in nearest]
    assert verdict.features.shape == (5, 16)


def test_a_clip_that_is_not_there(suite_file):
    with pytest.raises(FileNotFoundError, match="no CLIP model at '/no/where'"):
        load_judge(load_suite(suite_file, judge={"model": "/no/where"}))


def test_a_damaged_clip_is_said(clip_folder, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsFileError, match="is no CLIP that can be read"):
        Clip.load(str(folder))


def test_code_beside_a_clip_is_never_run(clip_folder, tmp_path, capsys):
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        if (folder / name).is_file():
            config = json.loads((folder / name).read_text())
            own = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor"), "own.Own")
            (folder / name).write_text(json.dumps(config | {"auto_map": own}))

    Clip.load(str(folder))  # with the library's own classes
    assert not (tmp_path / "ran").exists()
