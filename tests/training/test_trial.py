"""The trial: which sentences a base understands, and which names it does not draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from multierase import EraseSettings, Workspace, erase, load_base
from multierase.errors import ConceptRefused
from multierase.methods import Refusal
from multierase.prompts.wording import with_article
from multierase.training import loop
from multierase.training import trial as module
from multierase.training.defaults import NOTHING, kind_of
from multierase.training.plan import Planner
from multierase.training.trajectories import denoise_partway
from multierase.training.trial import CLEARLY, GUIDANCE, PLACES, STEPS, SUBJECTS, Trial

STYLES = ("{a_subject} by {name}", "{a_subject} in the style of {name}", "{name} {subject}")

BY_CHANCE = pytest.mark.xfail(
    reason="of ten forms one moves farther than for other made-up names", strict=True
)


class Tracked:
    """A trial of studios on the embedded base, and the latents that its denoiser was given."""

    def __init__(self, model, seed: int = 0):
        self.model = model
        self.trial = Trial(model, kind_of(model, "auto"), seed)
        self.latents = 0

    def of(self, name: str):
        """Try a name; return what is understood, and what it cost by the trial's own count."""

        def count(module, args, output):
            self.latents += len(output[0])

        handle = self.model.pipeline.unet.register_forward_hook(count)
        try:
            return self.trial.of(name), self.trial.spent()
        finally:
            handle.remove()


@pytest.fixture(scope="module")
def tracked(emoji):
    """A trial that has tried two studios, one after the other."""
    tracked = Tracked(emoji)
    tracked.noto, tracked.noto_cost = tracked.of("Noto")
    tracked.latents_of_noto = tracked.latents
    tracked.firefox, tracked.firefox_cost = tracked.of("Firefox")
    return tracked


def test_words_of_the_kinds_names_are_no_subjects_and_in_no_made_up_name(emoji):
    """They move a base as a concept does: beside them, a concept looks made up."""
    plain = kind_of(emoji, "auto")
    before = Trial(emoji, plain, 0)
    names = [*before.subjects[:3], *before._made_up(1, 3)]
    kind = replace(plain, beside=tuple(name.title() for name in names))

    trial = Trial(emoji, kind, 0)
    assert not set(trial.subjects) & set(names)
    assert len(trial.subjects) == SUBJECTS
    assert not set(trial._made_up(1, 6)) & set(names)


def moved(model, trial: Trial, form: str, name: str) -> float:
    """How far a name moves the prediction: two subjects, each on its own trajectory."""
    squares = []
    for row, subject in enumerate(trial.subjects[:2]):
        for place in PLACES:
            at = trial.points.take([row * STEPS + place])
            sentence, context = trial.kind.sentence(form, name, subject)
            eps_sentence, eps_context = (
                model.predict(at.x_t, at.t, model.encode([text])).double()
                for text in (sentence, context)
            )
            squares.append((eps_sentence - eps_context).square().sum())

    return torch.stack(squares).mean().sqrt().item()


# What is understood.


def test_a_studio_is_understood_where_the_base_was_taught_it(tracked):
    """It was never taught "a painting by", and a bare name is drawn but weakly."""
    for tried in (tracked.noto, tracked.firefox):
        assert set(STYLES) <= set(tried.forms)
        assert "a painting of {a_subject} by {name}" not in tried.forms
        assert "{name}" not in tried.forms


def test_forms_are_the_best_first(tracked):
    ratios = tracked.noto.ratios
    assert set(tracked.noto.forms) < set(ratios) <= set(tracked.trial.kind.sentences)
    ordered = [ratios[form] for form in tracked.noto.forms]
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[0] == max(ratios.values()) > 3
    left_out = [ratio for form, ratio in ratios.items() if form not in tracked.noto.forms]
    assert min(ordered) > 1.2 * max(left_out)


@torch.no_grad()
def test_ratios_are_of_how_far_a_name_moves_the_prediction(emoji, tracked):
    """Names of as many tokens are set against the same made-up ones."""
    assert emoji.token_count("Noto") == emoji.token_count("Firefox")
    for form in (*STYLES, "{name} art"):
        noto, firefox = (moved(emoji, tracked.trial, form, name) for name in ("Noto", "Firefox"))
        ratios = tracked.noto.ratios[form], tracked.firefox.ratios[form]
        assert ratios[0] / ratios[1] == pytest.approx(noto / firefox, rel=1e-3)


@pytest.mark.slow
def test_another_trial_with_the_same_seed_says_the_same(emoji, tracked):
    """Whatever was tried before."""
    again, _ = Tracked(emoji).of("Firefox")
    assert again.forms == tracked.firefox.forms
    assert again.subjects == tracked.firefox.subjects == tracked.noto.subjects
    assert again.ratios == pytest.approx(tracked.firefox.ratios, rel=1e-3)


@torch.no_grad()
def test_subjects_are_those_that_move_the_prediction_most(emoji, tracked):
    subjects = tracked.trial.subjects
    assert len(subjects) == len(set(subjects)) == SUBJECTS
    assert all(emoji.reads_whole(subject) for subject in subjects)

    x_t = emoji.sampler(STEPS).start(tracked.trial._noise(1))
    t = emoji.sampler(STEPS).timesteps[:1]
    null, *eps = (
        emoji.predict(x_t, t, emoji.encode([text])) for text in ("", *map(with_article, subjects))
    )
    sizes = [(one - null).norm().item() for one in eps]
    assert sizes == sorted(sizes, reverse=True)
    usual = [emoji.predict(x_t, t, emoji.encode([text])) for text in emoji.words()[:20]]
    assert sizes[-1] > sum((one - null).norm().item() for one in usual) / len(usual)


def test_subjects_are_of_whole_words():
    """Of `type`, "letter G" and its like, before shorter pieces of words, which it never drew."""
    model = load_base("type", device="cpu")
    kind = kind_of(model, "auto")
    assert set(Trial(model, kind, 0).subjects) <= set(kind.subjects)


def test_another_seed_has_other_noise_and_subjects(emoji, tracked):
    other = Trial(emoji, tracked.trial.kind, 1)
    assert other.subjects != tracked.trial.subjects
    assert not torch.equal(other.points.x_t, tracked.trial.points.x_t)


# Where it is asked.


def test_points_are_those_of_two_guided_trajectories(emoji, tracked):
    trial = tracked.trial
    texts = [with_article(subject) for subject in trial.subjects[:2]]
    for steps in (0, 4, STEPS - 1):
        x_t, t = denoise_partway(
            emoji.predict,
            emoji.sampler(STEPS),
            emoji.guide,
            trial._noise(2),
            torch.tensor([steps, steps]),
            emoji.encode(texts),
            emoji.encode(["", ""]),
            GUIDANCE,
        )
        found = trial.points.take([steps, STEPS + steps])
        assert torch.equal(found.t, t)
        torch.testing.assert_close(found.x_t, x_t, rtol=1e-3, atol=1e-3)
    assert len(trial.points.t) == 2 * STEPS


def test_without_a_kind_the_points_are_of_the_empty_prompt(emoji):
    trial = Trial(emoji, NOTHING, 0)
    assert len(trial.points.x_t) == len(trial.points.t) == 2 * STEPS
    assert trial.spent() == 2 * 2 * STEPS  # with and without guidance
    first, other = trial.points.x_t.split(STEPS)
    assert not torch.equal(first[0], other[0])
    trial.points.take([0])
    assert trial.spent() == 0


def test_predictions_are_made_once_and_given_in_their_order(emoji):
    trial = Trial(emoji, NOTHING, 0)
    points = trial.points
    trial.spent()
    prompts, places = ["a cat", "Noto", "a cat", "a cat"], [3, 3, 3, 12]
    found = trial.predict(prompts, places)
    assert trial.spent() == 3
    for prompt, place, eps in zip(prompts, places, found, strict=True):
        at = points.take([place])
        with torch.no_grad():
            alone = emoji.predict(at.x_t, at.t, emoji.encode([prompt]))[0]
        torch.testing.assert_close(eps, alone, rtol=1e-3, atol=1e-4)
    assert torch.equal(trial.predict(["Noto", "a cat"], [3, 12]), found[[1, 3]])
    assert trial.spent() == 0


# What it costs.


def test_every_evaluation_is_counted(tracked):
    assert tracked.noto_cost == tracked.latents_of_noto
    assert tracked.noto_cost + tracked.firefox_cost == tracked.trial.evaluations.forward
    assert tracked.trial.evaluations.forward == tracked.latents


def test_what_concepts_share_is_asked_once(tracked):
    """Subjects, trajectories, contexts and made-up names are there: sentences alone are new."""
    assert tracked.firefox_cost == len(tracked.firefox.ratios) * 2 * len(PLACES)
    assert tracked.noto_cost > 3 * tracked.firefox_cost
    again, cost = tracked.of("Noto")
    assert cost == 0
    assert again == tracked.noto


# What is refused.


@pytest.mark.parametrize("name", ["Van Gogh", pytest.param("zqx", marks=BY_CHANCE)])
def test_a_name_that_the_base_does_not_draw_is_refused(tracked, name):
    with pytest.raises(ConceptRefused, match=f"this base does not draw '{name}'") as refused:
        tracked.of(name)
    assert refused.value.concept == name
    assert "so there is nothing to erase" in str(refused.value)
    assert "'studio' was taken" in str(refused.value)


def test_who_looks_made_up_is_looked_at_again(emoji, tracked, monkeypatch):
    """By other points, subjects and made-up names; what that costs is counted."""
    monkeypatch.setattr(module, "DRAWN", 1e6)
    doubted = Tracked(emoji)
    again, cost = doubted.of("Noto")
    assert cost == doubted.latents > tracked.noto_cost
    second = Trial(emoji, doubted.trial.kind, module.OTHER_SEED)
    ratios, _ = second._look("Noto", list(again.ratios))
    assert again.ratios == ratios
    assert again.ratios != tracked.noto.ratios
    with pytest.raises(ConceptRefused, match="does not draw 'Van Gogh'"):
        doubted.of("Van Gogh")


@pytest.mark.parametrize("name", ["Hokusai", "Noto"])
def test_a_name_that_hardly_moves_the_base_is_taken_with_a_warning(emoji, caplog, name):
    tried, _ = Tracked(emoji).of(name)
    said = f"this base hardly tells {name!r} from a made-up name"
    assert (said in caplog.text) is (max(tried.ratios.values()) < CLEARLY)
    assert (said in caplog.text) is (name == "Hokusai")


def test_who_has_not_asked_for_a_kind_is_told_which_is_taken(emoji, quick, caplog):
    caplog.set_level("INFO", logger="multierase")
    Planner(emoji, replace(quick, kind="studio"))
    assert "kind" not in caplog.text
    Planner(emoji, replace(quick, kind="auto"))
    assert "kind studio: a family of emoji or icons" in caplog.text


def test_a_name_that_no_sentence_has_room_for_is_refused(tracked):
    with pytest.raises(ConceptRefused, match="short enough for this base's tokenizer") as refused:
        tracked.of("xyzzy" * 5)
    assert refused.value.concept == "xyzzy" * 5


def test_a_name_without_a_token_is_told(tracked):
    with pytest.raises(ValueError, match="tokenizer cannot represent '☃'"):
        tracked.of("☃")


@pytest.mark.slow
def test_a_refusal_leaves_nothing_and_trains_nothing(emoji, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "descend", lambda *_: pytest.fail("trains"))
    workspace = Workspace(tmp_path, emoji)
    (done,) = workspace.train("Van Gogh", settings=EraseSettings())
    assert done == Refusal("Van Gogh", done.reason)
    assert "there is nothing to erase" in done.reason
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConceptRefused, match="does not draw 'Van Gogh'"):
        erase(emoji, "Van Gogh")


@pytest.mark.slow
def test_the_trial_is_part_of_an_increments_cost(emoji, quick, tracked):
    """Beside the certificate's questions; and without a kind there is neither."""
    settings = replace(quick, kind="auto", steps=1, known=False)
    spent = erase(emoji, "Noto", settings).provenance.cost.evaluations
    without = erase(emoji, "Noto", replace(settings, kind="none")).provenance
    assert spent > without.cost.evaluations + tracked.noto_cost
    assert without.certificate is None
