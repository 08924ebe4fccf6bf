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


def test_clip_is_asked_for_the_nearest_sentence(tmp_path, tokenizer):
    """A small CLIP of random weights; the answer once more by the model's own forward pass."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = dict(tower, vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length)
    text |= dict(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
    config = CLIPConfig(text_config=text, vision_config=dict(tower, image_size=32, patch_size=8), projection_dim=16)
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    CLIPProcessor(CLIPImageProcessor(size=32, crop_size=32), tokenizer).save_pretrained(tmp_path / "clip")
    (tmp_path / "few.csv").write_text(
        "case_number,prompt,evaluation_seed,studio\n0,x,0,Noto\n1,x,0,Twemoji\n2,x,0,Firefox\n"
    )
    (tmp_path / "few.yaml").write_text(
        "prompts: few.csv\nlabels: [studio]\n"
        f"judge: {{name: clip, model: {tmp_path / 'clip'}, studio: 'a picture by {{label}}'}}\n"
    )
    judge = load_suite(tmp_path / "few.yaml").load_judge()
    assert judge.classes == {"studio": ["Noto", "Twemoji", "Firefox"]} and "sha256" in judge.name
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    verdict = judge(images)
    inputs = judge.processor(
        text=[f"a picture by {label}" for label in judge.classes["studio"]], images=list(images), return_tensors="pt",
        padding=True, truncation=True, do_rescale=False,
    )  # fmt: skip
    with torch.no_grad():
        logits = judge.model(**inputs).logits_per_image
    assert verdict.seen["studio"] == [judge.classes["studio"][i] for i in logits.argmax(dim=1).tolist()]
    assert verdict.features.shape == (5, 16)
    (tmp_path / "few.yaml").write_text("prompts: few.csv\nlabels: [studio]\njudge: {name: clip, model: /no/where}\n")
    with pytest.raises(FileNotFoundError, match="no CLIP model at '/no/where'"):
        load_suite(tmp_path / "few.yaml").load_judge()
