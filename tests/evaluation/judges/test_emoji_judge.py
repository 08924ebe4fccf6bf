import pytest
import torch

from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS
from multierase.evaluation.accuracy import studio_accuracy
from multierase.evaluation.judges import EmojiJudge
from multierase.evaluation.suites import load_suite
from multierase.generate import SamplingSettings, generate


def test_judge_knows_the_bases_world():
    judge = EmojiJudge.load()
    assert judge.classes == {"studio": list(EMOJI_STUDIOS), "subject": list(EMOJI_SUBJECTS)}
    verdict = judge(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert [len(names) for names in verdict.seen.values()] == [3, 3] and len(verdict.features) == 3


def test_accuracy_counts_what_the_judge_says(emoji):
    judge, subjects, settings = EmojiJudge.load(), ["church", "tulip"], SamplingSettings(10)
    shares = studio_accuracy(emoji, judge, ["Firefox", "Noto"], subjects, seed=3, settings=settings)
    prompts = [f"a {subject} by {studio}" for studio in ("Firefox", "Noto") for subject in subjects]
    seeds = [3000, 3001, 3000, 3001]  # the same noise for a subject, whatever the studio
    verdict = judge(generate(emoji, prompts, seeds, settings))
    for row, studio in enumerate(("Firefox", "Noto")):
        seen = verdict.seen["studio"][2 * row : 2 * row + 2]
        assert shares[studio].studio == sum(name == studio for name in seen) / 2
        assert (
            shares[studio].subject
            == sum(
                name == subject
                for name, subject in zip(verdict.seen["subject"][2 * row : 2 * row + 2], subjects, strict=True)
            )
            / 2
        )
        assert shares[studio].pictures == 2


def test_the_base_draws_what_it_is_asked_for(emoji):
    subjects = EMOJI_SUBJECTS[::24]
    shares = studio_accuracy(emoji, EmojiJudge.load(), list(EMOJI_STUDIOS), subjects)
    assert sum(share.studio for share in shares.values()) / len(shares) >= 0.8
    assert sum(share.subject for share in shares.values()) / len(shares) >= 0.9


def test_clip_is_asked_for_the_nearest_sentence(tmp_path, clip_folder, pictures):
    """The answer once more by the model's own forward pass, on files."""
    (tmp_path / "few.csv").write_text(
        "case_number,prompt,evaluation_seed,studio\n0,x,0,Noto\n1,x,0,Twemoji\n2,x,0,Firefox\n"
    )
    (tmp_path / "few.yaml").write_text(
        "prompts: few.csv\nlabels: [studio]\n"
        f"judge: {{name: clip, model: {clip_folder}, studio: 'a picture by {{label}}'}}\n"
    )
    judge = load_suite(tmp_path / "few.yaml").load_judge()
    assert judge.classes == {"studio": ["Noto", "Twemoji", "Firefox"]} and "sha256" in judge.name
    verdict = judge(pictures)
    inputs = judge.clip.processor(
        text=[f"a picture by {label}" for label in judge.classes["studio"]], images=list((pictures * 255).byte()),
        return_tensors="pt", padding=True, truncation=True,
    )  # fmt: skip
    with torch.no_grad():
        logits = judge.clip.model(**inputs).logits_per_image
    assert verdict.seen["studio"] == [judge.classes["studio"][i] for i in logits.argmax(dim=1).tolist()]
    assert verdict.features.shape == (5, 16)
    with pytest.raises(FileNotFoundError, match="no CLIP model at '/no/where'"):
        load_suite(tmp_path / "few.yaml", judge={"model": "/no/where"}).load_judge()
