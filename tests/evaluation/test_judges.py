import torch

from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS
from multierase.evaluation.accuracy import studio_accuracy
from multierase.evaluation.judges import EmojiJudge
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
