"""Whatever is raised in the middle of composing, the weights are what ``erased`` says."""

from __future__ import annotations

import contextlib
import random
import signal
import threading

import pytest
import torch
from compositions import CONCEPTS, Expected, assert_bits, increments_of, snapshot

from multierase import Composer
from multierase.models import weights as weights_module
from multierase.models.weights import Weights
from multierase.separation.changes import Changes

pytestmark = pytest.mark.slow  # two hundred interrupts take their time

RAISED = (KeyboardInterrupt, MemoryError, torch.OutOfMemoryError)


class Interrupt:
    """Raises at the n-th call of the low-level steps of composing, before or after the step."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self.left: list[tuple[int, type[BaseException]]] = []
        self.steps = 0
        for owner, name in (
            (Weights, "write"),
            (Weights, "keep"),
            (Weights, "parameter"),
            (Changes, "added"),
            (torch, "addmm"),
            (torch.Tensor, "copy_"),
            (weights_module, "_stamp"),
        ):
            self._wrap(owner, name)

    def after(self, calls: int, kind: type[BaseException], *, again: int | None = None) -> None:
        """Raise after so many more steps; and once more ``again`` steps later."""
        self.left = [(calls, kind)]
        if again is not None:
            self.left.append((again, kind))

    def steps_of(self, call) -> int:
        """Count the steps of a call, without interrupting it."""
        before = self.steps
        call()
        return self.steps - before

    def _wrap(self, owner, name):
        whole = getattr(owner, name)

        def step(*args, **kwargs):
            self._count()
            done = whole(*args, **kwargs)
            self._count()
            return done

        self._monkeypatch.setattr(owner, name, step)

    def _count(self):
        self.steps += 1
        if not self.left:
            return
        calls, kind = self.left[0]
        self.left[0] = calls - 1, kind
        if calls <= 0:
            self.left.pop(0)
            raise kind("in the middle")


@pytest.fixture
def interrupt(monkeypatch):
    return Interrupt(monkeypatch)


@pytest.fixture(params=["sum", "joint"])
def scene(request, tiny):
    """A composer, the base's weights, and the weights that each set must give."""
    increments = increments_of(tiny)
    composer = Composer(tiny, increments, solve=request.param)
    return composer, snapshot(tiny), Expected(tiny, increments, solve=request.param)


def some_call(composer: Composer, chance: random.Random):
    """One of the ways to change the set."""
    erased = list(composer.erased)
    kind = chance.choice(["erase", "set", "erasing", *["restore"] * bool(erased), "restore_all"])
    names = chance.sample(CONCEPTS, chance.randint(1, 3))
    if kind == "erase":
        return lambda: composer.erase(*names, strength=chance.choice([1.0, 0.5]))
    if kind == "set":
        return lambda: composer.set(dict.fromkeys(names, 1.0))
    if kind == "restore":
        return lambda: composer.restore(chance.choice(erased))
    if kind == "restore_all":
        return composer.restore_all

    def block():
        with composer.erasing(*names):
            pass

    return block


def assert_true_to_its_word(composer, base, expected, chance):
    """The weights are those of ``erased``, and everything can be restored."""
    assert torch.is_grad_enabled()
    assert_bits(composer.model, expected[dict(composer.erased)])
    if chance.random() < 0.3:
        composer.restore_all()
        assert_bits(composer.model, base)


@pytest.mark.parametrize("kind", RAISED)
def test_an_interrupt_at_any_step(scene, interrupt, kind):
    """Forty seeded interrupts of each kind and solve."""
    composer, base, expected = scene
    chance, raised = random.Random(kind.__name__), 0
    while raised < 40:
        call = some_call(composer, chance)
        interrupt.after(chance.randint(0, 600), kind)
        try:
            call()
        except kind:
            raised += 1
        interrupt.left.clear()
        assert_true_to_its_word(composer, base, expected, chance)

    composer.restore_all()
    assert_bits(composer.model, base)


@pytest.mark.parametrize("kind", RAISED)
def test_the_old_set_stays_when_writing_the_new_one_fails(scene, interrupt, kind):
    composer, base, expected = scene
    composer.erase("dali")
    steps = steps_from_dali(composer, interrupt)
    interrupt.after(steps - 20, kind)
    with pytest.raises(kind):
        composer.set(WANTED)
    interrupt.left.clear()
    assert composer.erased == {"dali": 1.0}
    assert_bits(composer.model, expected[{"dali": 1.0}])
    composer.restore_all()
    assert_bits(composer.model, base)


WANTED = {"monet": 1.0, "van gogh": 0.5}


def steps_from_dali(composer, interrupt) -> int:
    """The steps of going from one set to the other; the last third of them writes."""
    composer.set(WANTED)
    composer.set({"dali": 1.0})
    steps = interrupt.steps_of(lambda: composer.set(WANTED))
    composer.set({"dali": 1.0})

    return steps


def test_a_second_interrupt_in_the_middle_of_going_back_is_repaired_by_the_next_call(
    scene, interrupt
):
    composer, base, expected = scene
    steps = steps_from_dali(composer, interrupt)
    chance, twice = random.Random(0), 0
    for _ in range(30):
        composer.set({"dali": 1.0})
        again = chance.randint(1, steps // 4)
        interrupt.after(chance.randint(steps * 2 // 3, steps), KeyboardInterrupt, again=again)
        with contextlib.suppress(KeyboardInterrupt):
            composer.set(WANTED)
        twice += bool(composer._unsure)
        interrupt.left.clear()

        next_call = chance.choice(["ask", "restore_all", "erase"])
        if next_call == "restore_all":
            composer.restore_all()
            assert_bits(composer.model, base)
        elif next_call == "erase":
            composer.erase("nudity")
        assert_bits(composer.model, expected[dict(composer.erased)])
    assert twice >= 10


def test_an_interrupted_composer_that_is_lost_leaves_the_base(tiny, interrupt):
    increments, base = increments_of(tiny), snapshot(tiny)
    composer = Composer(tiny, increments)
    steps = steps_from_dali(composer, interrupt)
    interrupt.after(steps - 20, KeyboardInterrupt, again=1)
    with contextlib.suppress(KeyboardInterrupt):
        composer.set(WANTED)
    interrupt.left.clear()
    assert composer._unsure
    del composer

    other = Composer(tiny, increments)
    other.erase("van gogh")
    other.restore_all()
    assert_bits(tiny, base)


@contextlib.contextmanager
def alarm(seconds: float):
    """Raise ``KeyboardInterrupt`` in this thread after so many seconds, at whatever it does."""

    def ring(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# One may strike in a finaliser of another test's garbage, where Python swallows and reports it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_two_hundred_real_interrupts(scene):
    """At random microseconds, wherever the interpreter is: a hundred of each solve."""
    composer, base, expected = scene
    chance, raised, calls = random.Random(1), 0, 0
    while raised < 100:
        call, calls = some_call(composer, chance), calls + 1
        with contextlib.suppress(KeyboardInterrupt):
            raised += 1
            with alarm(chance.uniform(1e-4, 2e-2)):
                call()
            raised -= 1
        assert_true_to_its_word(composer, base, expected, chance)
        assert calls < 2000

    composer.restore_all()
    assert_bits(composer.model, base)


def test_two_threads_never_leave_half_a_set(scene):
    composer, base, expected = scene
    failures = []

    def work(name: str, other: str) -> None:
        try:
            for _ in range(30):
                composer.erase(name)
                with composer._lock:  # both threads stand still while one looks
                    assert_bits(composer.model, expected[dict(composer.erased)])
                composer.restore(name)
        except BaseException as error:
            failures.append(error)

    pairs = [("dali", "monet"), ("van gogh", "nudity")]
    for first, second in ((a, b) for a, b in pairs for _ in range(2)):
        expected[{first: 1.0}], expected[{second: 1.0}]
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert composer.erased == {}
    assert_bits(composer.model, base)
