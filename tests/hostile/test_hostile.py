"""Nothing damaged is loaded wrong, nothing hostile escapes, and no odd file takes its library down.

``corpus.py`` and ``hostile_files.py`` make the files.
"""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from by_hand import assemble, body_of
from corpus import DAMAGED, NAME, SOUND, damaged, numbers, sound_files
from hostile_files import HOSTILE, Hostile, hostile

from multierase import Increment, Library, load_increment
from multierase.errors import IncrementFileError, MultieraseError
from multierase.increments.compression import compress
from multierase.increments.header import read_header

REFUSED = (IncrementFileError, FileNotFoundError)
SECONDS = 10  # for one file, on a busy machine; the slowest takes half of one
MEMORY = 2**20  # KiB


@contextlib.contextmanager
def bounded(what: str):
    """Fail if the body hangs."""

    def late(*arguments):
        raise AssertionError(f"{what}: more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def neighbour(folder: Path) -> Path:
    """Write a sound file beside a hostile one."""
    path = folder / "neighbour.safetensors"
    shape = {"unet.w": (3, 2)}
    path.write_bytes(assemble(body_of("neighbour", shape), {"unet.w": numbers(3, 2)}))

    return path


def test_the_sound_files_are_sound(tmp_path):
    """Otherwise the rest would test nothing."""
    for name, data in sound_files().items():
        path = tmp_path / "x.safetensors"
        path.write_bytes(data)
        assert load_increment(path).concept == NAME, name


def test_nothing_damaged_is_loaded_wrong(tmp_path):
    path = tmp_path / "x.safetensors"
    originals, ends = {}, Counter()
    for name, data in sound_files().items():
        path.write_bytes(data)
        originals[name] = load_increment(path)

    for number, (name, way, data) in enumerate(damaged()):
        path.write_bytes(data)
        with bounded(f"{number}: {name}, {way}"):
            try:
                loaded = load_increment(path)
            except REFUSED:
                ends["refused"] += 1
                continue
        assert loaded == originals[name], f"{number}: {name}, {way}"
        ends["equal"] += 1

    assert ends.total() == DAMAGED
    assert ends["equal"] < DAMAGED / 50  # blanks of the container, which mean nothing


CASES = hostile()
BATCH = 42


@pytest.mark.parametrize("start", range(0, HOSTILE, BATCH))
def test_nothing_hostile_escapes(tmp_path, start):
    for number, case in enumerate(CASES[start : start + BATCH], start):
        folder = tmp_path / str(number)
        folder.mkdir()
        neighbour(folder)
        case.place(folder / "x.safetensors")
        before = peak_memory()
        with bounded(f"{number}: {case.name}"):
            try:
                exercise(folder)
            except Exception as error:  # whatever comes, say which file it was
                error.add_note(f"{number}: {case.name}")
                raise
        assert peak_memory() - before < MEMORY, case.name
        if (folder / "x.safetensors").is_file() and not (folder / "x.safetensors").is_symlink():
            (folder / "x.safetensors").unlink()  # some are large


def exercise(folder: Path) -> None:
    """Do with a folder what the command line does, and what Python users do."""
    path = folder / "x.safetensors"
    with contextlib.suppress(*REFUSED):
        header = read_header(path)
        assert header.shapes
        assert header.concept
    with contextlib.suppress(*REFUSED):
        use(load_increment(path))

    library = Library(folder)
    problems, headers = library.problems(), library.headers()
    assert "neighbour" in headers
    assert library["neighbour"].norm() > 0
    assert len(library) == len(headers) == len(list(library))
    assert all(isinstance(why, str) and "\x1b" not in why for why in problems.values())
    listed = {header.path for header in headers.values()}
    assert not listed & problems.keys()
    assert len(listed | problems.keys()) == len(list(folder.glob("*.safetensors")))

    for name in headers:
        assert name in library
        with contextlib.suppress(IncrementFileError):
            assert library[name] == library[name]
    with contextlib.suppress(MultieraseError):
        library[NAME]
    with contextlib.suppress(MultieraseError):
        library.check_targets([NAME])
    with contextlib.suppress(MultieraseError):
        library.check_targets([NAME], overwrite=True)


def use(increment: Increment) -> None:
    """Calculate with what was loaded."""
    assert increment == increment.named("y") or increment.concept != "y"
    assert hash(increment) == hash(increment)
    assert math.isfinite(increment.norm())
    assert all(math.prod(shape) < 2**28 for shape in increment.shapes.values())
    for tensor in increment._tensors().values():
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()

    with contextlib.suppress(ValueError):  # numbers beyond the precision
        small = compress(increment, 0.5)
        assert small.history[-1]["error"] <= 0.5
        assert math.isfinite(small.norm())
    if sum(math.prod(shape) for shape in increment.shapes.values()) < 10**7:
        assert (increment - increment).shapes == increment.shapes


def test_the_corpus_is_as_large_as_it_says():
    names = [case.name for case in CASES]
    assert len(names) == HOSTILE
    assert len(set(names)) > HOSTILE * 0.98
    assert [case.name for case in hostile()] == names


REFUSED_CASES = (
    "float64 up", "complex64 dense", "bool Gram", "Gram of shape (5, 2)", "Gram of shape ()",
    "dense of nan", "factors of inf", "float64 of 1e300", "factors of 100000² at rank 1",
    "rank 7 of a layer of 5 by 4", "one tensor more: 'more'", "one tensor less: gram.tokens",
    "a tensor twice", "a key twice", "overlapping", "1e999", "version True", "version '2'",
    "family 'flux'", "history [{}]", "readers {'unet.mid.attn1.to_q.weight': 'tokens'}",
    "900 levels", "copied", "a pipe", "concept '\\x1b[31mred'", "header of 60 MB: b'['",
    "entry dtype 'F8_E4M3'", "no tensor", "an entry more",
)  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_CASES)
def test_what_must_be_refused_is(tmp_path, name):
    """A reader that took everything would pass the tests above."""
    (case,) = [case for case in CASES if case.name == name]
    path = tmp_path / "x.safetensors"
    case.place(path)
    if name in ("copied",):
        assert len(Library(tmp_path).problems()) == 1
    elif name == "one tensor less: gram.tokens":
        assert load_increment(path).grams == {}  # joint composing refuses it, and says why
    else:
        with pytest.raises(IncrementFileError):
            load_increment(path)


def test_one_library_of_all_of_them_still_gives_its_neighbour(tmp_path):
    """Each under its own name, side by side."""
    neighbour(tmp_path)
    for number, case in enumerate(CASES):
        if "header of" in case.name:
            continue
        (tmp_path / str(number)).mkdir()
        case.place(tmp_path / str(number) / f"{number}.safetensors")
        for path in (tmp_path / str(number)).iterdir():
            path.rename(tmp_path / path.name)

    started = time.process_time()
    library = Library(tmp_path)
    assert "neighbour" in library
    assert library["neighbour"].norm() > 0
    assert len(library.problems()) > HOSTILE * 0.9
    assert time.process_time() - started < 5


def test_all_kinds_of_sound_files_are_attacked():
    text = " ".join(case.name for case in CASES)
    assert all(f"{name}: " in text for name in SOUND)
    assert isinstance(CASES[0], Hostile)
