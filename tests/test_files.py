"""Files are written whole or not at all, whatever ends the writing."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from multierase import Increment, files, load_increment, save_increment
from multierase.errors import AlreadyThere, MultieraseError, WriteError
from multierase.files import (
    TEMPORARY,
    replacing,
    require_writable,
    write_text,
)
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Provenance


def small(seed: int) -> Increment:
    numbers = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
    base = Fingerprint.of("base", "stable-diffusion", {"unet.w": torch.ones(8, 8)})

    return Increment({"unet.w": numbers}, base, Provenance("x"))


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(code: str, *arguments: object) -> subprocess.Popen:
    """Start Python without torch, which takes seconds."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ---- what ends the writing


def test_a_new_file_appears_at_the_end_only(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert left_in(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_whatever_is_raised_the_old_file_stays(old, error):

    def write():
        with replacing(old) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert old.read_text() == "old"
    assert left_in(old.parent) == ["file.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_failure_of_the_system_is_a_write_error(old, monkeypatch, call, code):
    def failing(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, failing)
    message = f"cannot write .*file.txt: {re.escape(os.strerror(code))}; nothing was changed"
    with pytest.raises(WriteError, match=message) as told:
        write_text(old, "new")
    assert isinstance(told.value, OSError)
    assert isinstance(told.value, MultieraseError)
    assert old.read_text() == "old"
    assert left_in(old.parent) == ["file.txt"]


@pytest.mark.parametrize("kind", [RuntimeError, OSError, ValueError, AlreadyThere.__mro__[1]])
def test_no_message_names_the_temporary_file(old, kind):
    """A library's own error quotes the name that it was given; the user knows the other one."""
    with pytest.raises(WriteError) as raised, replacing(old) as temporary:
        raise kind(f"I/O error: no space for '{temporary}'")
    assert str(raised.value).startswith(f"cannot write {old}: I/O error: no space for '{old}'")
    assert TEMPORARY not in str(raised.value)
    assert left_in(old.parent) == ["file.txt"]
    assert old.read_text() == "old"


def test_a_full_disk_is_a_write_error(old):
    """RLIMIT_FSIZE stands for the end of the disk."""
    process = run(
        """
        import resource, sys
        from multierase.errors import WriteError
        from multierase.files import write_text
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(sys.argv[1], "x" * 5000)
        except WriteError as error:
            print(error)
        """,
        old,
    )
    told, errors = process.communicate(timeout=60)
    assert "cannot write" in told, errors
    assert "File too large; nothing was changed" in told
    assert old.read_text() == "old"
    assert left_in(old.parent) == ["file.txt"]


def test_a_full_disk_while_an_increment_is_saved_leaves_the_old_one(tmp_path):
    path = save_increment(small(seed=1), tmp_path / "x.safetensors")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limit[1]))
    try:
        with pytest.raises(WriteError, match="cannot write .*x.safetensors"):
            save_increment(small(seed=2), path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert load_increment(path) == small(seed=1)
    assert left_in(tmp_path) == ["x.safetensors"]


def test_a_folder_that_is_not_there_or_read_only_is_told(tmp_path, monkeypatch):
    with pytest.raises(WriteError, match="cannot write into .*nowhere: No such file"):
        write_text(tmp_path / "nowhere" / "file.txt", "x")
    with pytest.raises(WriteError, match="cannot write into"):
        require_writable(tmp_path / "nowhere")

    original = os.open

    def read_only(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return original(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(WriteError, match="Read-only file system"):
        require_writable(tmp_path)


def test_a_write_error_of_the_body_is_not_wrapped_again(old):
    with pytest.raises(WriteError, match="^told once$"), replacing(old):
        raise WriteError("told once")


def test_a_folder_in_the_way_is_told(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(WriteError, match="cannot write .*x: "):
        write_text(tmp_path / "x", "x")
    assert left_in(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_flushed_is_no_failure(old, monkeypatch):
    """Some systems do not open folders, or do not flush them."""
    original = os.open

    def no_folders(path, flags, *rest, **options):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", no_folders)
    write_text(old, "new")
    assert old.read_text() == "new"


def test_file_and_folder_are_flushed_before_and_after_the_name(old, monkeypatch):
    order = []
    flush, rename = os.fsync, os.replace
    kinds = {True: "folder", False: "file"}
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: order.append(kinds[stat.S_ISDIR(os.fstat(fd).st_mode)]) or flush(fd),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("name") or rename(a, b))
    write_text(old, "new")
    assert order == ["file", "name", "folder"]


# ---- killed


KILLED = """
import os, signal, sys
from multierase.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_leaves_is_collected_by_the_next(old):
    process = run(KILLED, old)
    temporary, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert Path(temporary.strip()).read_text() == "half"
    assert old.read_text() == "old"

    write_text(old, "new")
    assert left_in(old.parent) == ["file.txt"]
    assert old.read_text() == "new"


def test_what_a_living_run_writes_is_left_alone(old):
    with replacing(old.parent / "other.txt") as temporary:
        temporary.write_text("still being written")
        write_text(old, "new")
        assert temporary.exists()
    assert left_in(old.parent) == ["file.txt", "other.txt"]


@pytest.mark.parametrize(
    ("owner", "age", "stays"),
    [
        ("another-machine.1", 3600, True),
        ("another-machine.1", 25 * 3600, False),
        (f"{socket.gethostname()[:32]}.{os.getpid()}", 3600, True),
        (f"{socket.gethostname()[:32]}.{os.getpid()}", 25 * 3600, False),  # the number is another's
        (f"{socket.gethostname()[:32]}.99999999999999999999", 3600, True),
        ("nobody", 3600, True),
    ],
    ids=["another, fresh", "another, old", "ours, fresh", "ours, old", "no process", "nobody"],
)
def test_what_may_be_somebodys_is_kept_for_a_day(tmp_path, owner, age, stays):
    name = f".file.txt.{owner}.0123456789abcdef{TEMPORARY}"
    (tmp_path / name).write_text("half")
    then = time.time() - age
    os.utime(tmp_path / name, (then, then))
    write_text(tmp_path / "file.txt", "new")
    assert (tmp_path / name).exists() == stays


# ---- nobody else's


def test_temporary_names_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "file.txt") as temporary:
            temporary.write_text("x")
            names.add(temporary.name)
    assert len(names) == 20
    assert all(re.search(r"\.[0-9a-f]{16}\.multierase-tmp$", name) for name in names)


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 16)
    owner = f"{socket.gethostname()[:32]}.{os.getpid()}"
    planted = tmp_path / f".file.txt.{owner}.{'0' * 16}{TEMPORARY}"
    planted.symlink_to(victim)

    with pytest.raises(WriteError, match="File exists"):
        write_text(tmp_path / "file.txt", "evil")
    assert victim.read_text() == "precious"


def test_a_link_under_the_files_own_name_is_replaced_and_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "file.txt"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(AlreadyThere):
        write_text(path, "new", overwrite=False)
    write_text(path, "new")
    assert victim.read_text() == "precious"
    assert path.read_text() == "new"
    assert not path.is_symlink()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_honours_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("name", ["ピ" * 80, "😀" * 60, "x" * 255, "a b\tc", ".hidden"])
def test_any_name_that_a_file_can_have_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "x")
    assert left_in(tmp_path) == [name]


# ---- not overwriting


def test_a_file_that_is_there_is_not_overwritten(old):
    with pytest.raises(AlreadyThere, match="file.txt exists already") as told:
        write_text(old, "new", overwrite=False)
    assert isinstance(told.value, FileExistsError)
    assert old.read_text() == "old"


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "file.txt"

    def write():
        with replacing(path, overwrite=False) as temporary:
            temporary.write_text("mine")
            path.write_text("somebody else's")

    with pytest.raises(AlreadyThere, match="appeared meanwhile"):
        write()
    assert path.read_text() == "somebody else's"
    assert left_in(tmp_path) == ["file.txt"]


def test_without_hard_links_it_is_asked_again(tmp_path, monkeypatch):
    def no_links(*arguments, **options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_text(tmp_path / "file.txt", "new", overwrite=False)
    with pytest.raises(AlreadyThere):
        write_text(tmp_path / "file.txt", "newer", overwrite=False)
    assert left_in(tmp_path) == ["file.txt"]


def test_of_several_threads_that_found_the_name_free_exactly_one_wins(tmp_path):
    barrier, won = threading.Barrier(8), []

    def write(number: int) -> None:
        try:
            with replacing(tmp_path / "file.txt", overwrite=False) as temporary:
                temporary.write_text(str(number))
                barrier.wait(timeout=30)
            won.append(number)
        except AlreadyThere:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert (tmp_path / "file.txt").read_text() == str(won[0])
    assert left_in(tmp_path) == ["file.txt"]


RACE = """
import sys
from multierase.errors import AlreadyThere
from multierase.files import replacing
try:
    with replacing(sys.argv[1], overwrite=False) as temporary:
        temporary.write_text(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
except AlreadyThere:
    print("lost")
else:
    print("won")
"""


def test_of_two_processes_exactly_one_wins(tmp_path):
    path = tmp_path / "file.txt"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = [racer.communicate(timeout=60)[0].strip() for racer in racers]

    assert sorted(told) == ["lost", "won"]
    assert path.read_text() == str(told.index("won"))
    assert left_in(tmp_path) == ["file.txt"]
