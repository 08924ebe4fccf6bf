"""What the page does, without a browser: the library's own results, for any number of browsers."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from compositions import increments_of

from multierase import EraseSettings, Library, Request, SamplingSettings, Server, Workspace
from multierase.app.session import MOST_SUBSETS, Session, Step, Wanted
from multierase.errors import Cancelled, UnknownConcept, UsageError
from multierase.files import digest_tensors
from multierase.pictures import to_picture
from multierase.training.checkpoint import SUFFIX

pytestmark = pytest.mark.slow  # makes pictures and trains increments
QUICK = SamplingSettings(inference_steps=2)


@pytest.fixture
def session(tiny, tmp_path):
    """A page over four concepts of random numbers."""
    library = Library(tmp_path / "library", create=True)
    for increment in increments_of(tiny).values():
        library.save(increment)

    return Session(Workspace(library, tiny))


def weights(session: Session) -> str:
    return digest_tensors(session.workspace.model.parameters())


# Composing.


def test_the_badge_compares_bytes(session):
    before, (name, other, *_) = weights(session), session.concepts()
    assert session.compose({}).is_base is True

    composed = session.compose({name: 1.0, other: 0.5})
    assert composed.is_base is None
    assert composed.erased == {name: 1.0, other: 0.5}
    assert weights(session) != before

    assert session.compose({}).is_base is True
    assert weights(session) == before


def test_the_badge_notices_one_weight_of_somebody_else(session):
    parameter = next(iter(session.workspace.model.parameters().values()))
    parameter.data.view(-1)[0] += 1e-3
    assert session.compose({}).is_base is False


def test_it_composes_as_the_library_does(session, tiny):
    erased = {session.concepts()[0]: 0.5}
    session.compose(erased)
    composed = weights(session)
    session.compose({})

    workspace = session.workspace
    workspace.set(erased)
    assert digest_tensors(tiny.parameters()) == composed


def test_pictures_are_those_of_the_library(session):
    erased = {session.concepts()[0]: 1.0}
    found = session.compare("a church", 3, erased, QUICK)
    requests = [Request("a church", 3), Request("a church", 3, erased)]
    base, composed = Server(session.workspace).generate(requests, QUICK)
    assert found.base.tobytes() == to_picture(base).tobytes()
    assert found.composed.tobytes() == to_picture(composed).tobytes()
    assert found.base.tobytes() != found.composed.tobytes()

    moved = (base - composed).abs().mean(0)
    shown = torch.tensor(list(found.difference.getchannel("R").get_flattened_data()))
    torch.testing.assert_close(
        shown.float() / 255, (2 * moved).clamp(0, 1).flatten(), atol=1 / 255, rtol=0
    )


def test_every_subset_once(session):
    names = session.concepts()[:3]
    pictures = session.subsets(names, "a church", 0, QUICK)
    captions = [caption for _, caption in pictures]
    assert captions[0] == "the base"
    one, two, three = names
    pairs = [f"{one} + {two}", f"{one} + {three}", f"{two} + {three}"]
    assert captions[1:] == [*names, *pairs, f"{one} + {two} + {three}"]
    alone = session.compare("a church", 0, {names[1]: 1.0}, QUICK)
    assert pictures[captions.index(names[1])][0].tobytes() == alone.composed.tobytes()


def test_browsers_at_once_get_their_own_pictures(session):
    sets = [{}, *({name: 1.0} for name in session.concepts())]
    expected = [session.compare("a cat", 0, erased, QUICK).composed.tobytes() for erased in sets]
    found: dict[int, list[bytes]] = {place: [] for place in range(len(sets))}

    def browse(place: int) -> None:
        for _ in range(3):
            session.compose(sets[place])
            picture = session.compare("a cat", 0, sets[place], QUICK).composed
            found[place].append(picture.tobytes())

    threads = [threading.Thread(target=browse, args=(place,)) for place in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(pictures) for pictures in found.values()] == [{one} for one in expected]


@pytest.mark.parametrize("name", ["Nto", "../library/noto", "/etc/passwd", "<img src=x>"])
def test_a_name_that_is_not_there(session, name):
    with pytest.raises(UnknownConcept, match="not in library"):
        session.compose({name: 1.0})
    with pytest.raises(UnknownConcept):
        session.compare("a cat", 0, {name: 1.0}, QUICK)
    assert session.compose({}).is_base


def test_what_cannot_be_drawn_is_said(session):
    with pytest.raises(UsageError, match="give a prompt"):
        session.compare("  ", 0, {}, QUICK)
    with pytest.raises(UsageError, match=f"choose 1 to {MOST_SUBSETS}"):
        session.subsets([], "a cat", 0, QUICK)
    with pytest.raises(UsageError, match="strengths by concept"):
        session.compose("Noto")
    with pytest.raises(ValueError, match="strength"):
        session.compose({session.concepts()[0]: float("nan")})


# Erasing.


def wanted(quick: EraseSettings, **more) -> Wanted:
    return Wanted("New", quick, sentences=("a church by New", "New"), **more)


def test_an_erasure_is_the_librarys_own_whatever_is_drawn_on_the_way(session, quick, tmp_path):
    *steps, words = session.erase(wanted(quick, preview="a church by New"))
    assert all(isinstance(step, Step) for step in steps)
    assert [step.step for step in steps] == list(range(1, quick.steps + 1))
    assert steps[0].preview is not None
    assert "saved as new.safetensors" in words

    other = Workspace(tmp_path / "other", session.workspace.model, create=True)
    (alone,) = other.train(wanted(quick).concept, settings=quick)
    here, there = session.workspace.library["New"], alone.increment
    for name in there.deltas:
        assert torch.equal(here.dense(name), there.dense(name))
    assert session.compose({}).is_base


def test_a_cancelled_erasure_goes_on_to_the_same_bits(session, quick, tmp_path):
    settings = dataclasses.replace(quick, steps=12, batch_size=2, sampling_batch=4)
    running = session.erase(wanted(settings))
    for step in running:
        session.cancel()
        if step.step == 2:
            break
    with pytest.raises(Cancelled, match="of 12"):
        list(running)
    assert "New" not in session.concepts()
    folder = session.workspace.library.folder
    assert len(list(folder.glob(f"*{SUFFIX}"))) == 1

    *steps, _ = session.erase(wanted(settings))
    assert 0 < len(steps) < 12
    assert not list(folder.glob(f"*{SUFFIX}"))

    other = Workspace(tmp_path / "other", session.workspace.model, create=True)
    (whole,) = other.train(wanted(settings).concept, settings=settings)
    here = session.workspace.library["New"]
    for name in whole.increment.deltas:
        assert torch.equal(here.dense(name), whole.increment.dense(name))


def test_a_cancel_before_the_first_step_counts_and_a_stale_one_does_not(session, quick):
    settings = dataclasses.replace(quick, steps=12, sampling_batch=4)
    session.begin()
    session.cancel()
    with pytest.raises(Cancelled):
        list(session.erase(wanted(settings)))

    session.cancel()  # nothing runs
    session.begin()
    *_, words = session.erase(wanted(settings))
    assert "saved as" in words


def test_who_closes_the_page_ends_the_erasure(session, quick):
    settings = dataclasses.replace(quick, steps=400, sampling_batch=4)
    running = session.erase(wanted(settings))
    next(running)
    running.close()
    assert not [one for one in threading.enumerate() if one.name.endswith("(_train)")]
    assert session.compose({}).is_base  # the lock is free, and the weights are the base's
    assert "New" not in session.concepts()


def test_an_increment_that_is_there_is_not_replaced_unasked(session, quick):
    name = session.concepts()[0]
    path = session.workspace.library.path(name)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="already"):
        list(session.erase(Wanted(name, quick)))
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["/etc/passwd", "../kinds/artist.yaml", "kind.yaml", "artists"])
def test_a_kind_is_one_of_those_that_are_offered(session, quick, kind):
    settings = dataclasses.replace(quick, kind=kind)
    for act in (session.estimate, session.sentences, lambda one: list(session.erase(one))):
        with pytest.raises(UsageError, match="unknown kind"):
            act(Wanted("New", settings))


@pytest.mark.parametrize("name", ["", "a/b", "..\\x", "x" * 300, "a\nb"])
def test_a_name_that_cannot_be_a_concepts(session, quick, name):
    before = sorted(session.workspace.library.folder.iterdir())
    with pytest.raises(ValueError, match="name"):
        list(session.erase(Wanted(name, quick)))
    assert sorted(session.workspace.library.folder.iterdir()) == before


def test_an_estimate_before_anything_starts(session, quick):
    said = session.estimate(Wanted("New", quick))
    assert "evaluations of the denoiser" in said
    assert "MB" in said
    assert session.estimate(Wanted("New", quick, method="uce")).startswith("At most a file")


def test_the_sentences_are_those_of_the_training(emoji, tmp_path):
    session = Session(Workspace(tmp_path / "lib", emoji, create=True))
    settings = EraseSettings(steps=1, trajectories=1, sampler_steps=2)
    shown = session.sentences(Wanted("Noto", settings))
    (made,) = session.workspace.train("Noto", settings=settings)
    assert tuple(shown) == made.increment.provenance.prompts
