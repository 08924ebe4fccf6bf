"""What is refused, when it is written, read, or applied to a base; and what kills leave."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from by_hand import K, Q, assemble, body_of, digest
from making import READERS, A, C, make, of_matrices
from safetensors.torch import save_file

from multierase import Increment, load_increment, save_increment
from multierase.errors import AlreadyThere, FormatVersionError, IncrementFileError, WriteError
from multierase.increments import format as format_module
from multierase.increments.format import require_fits
from multierase.increments.header import read_header
from multierase.increments.provenance import Provenance

HERE = Path(__file__).parent


@pytest.fixture
def file(tmp_path) -> Path:
    return save_increment(make(factored=(A,)), tmp_path / "van-gogh.safetensors")


@pytest.mark.parametrize("length", [0, 4, 7, 8, 100, -1])
def test_a_file_cut_short_is_refused(file, length):
    file.write_bytes(file.read_bytes()[:length])
    for read in (load_increment, read_header):
        with pytest.raises(IncrementFileError, match="not a whole safetensors file"):
            read(file)


def test_a_missing_file_is_told_apart_from_a_damaged_one(tmp_path):
    for path in (tmp_path / "x.safetensors", tmp_path / ("x" * 300), tmp_path / "a" / "b"):
        with pytest.raises(FileNotFoundError, match="no increment file"):
            load_increment(path)
    with pytest.raises(IncrementFileError, match="is no file"):
        load_increment(tmp_path)


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [pickle.dumps, None])
def test_a_pickle_under_another_name_is_never_run(tmp_path, write):
    path, ran = tmp_path / "x.safetensors", tmp_path / "ran"
    if write is None:
        torch.save({"x": Bomb(ran)}, path)
    else:
        path.write_bytes(write(Bomb(ran)))
    with pytest.raises(IncrementFileError, match="pickle"):
        load_increment(path)
    assert not ran.exists()


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(IncrementFileError, match="holds tensors but no increment"):
        load_increment(path)


@pytest.mark.parametrize("version", [0, 3, 99, "2", 2.0, True, None, [2], {}])
def test_another_version_is_refused(tmp_path, version):
    path = tmp_path / "x.safetensors"
    body = {**body_of("x", {Q: (2, 2)}), "format_version": version}
    path.write_bytes(assemble(body, {Q: np.ones((2, 2), np.float32)}))
    with pytest.raises(FormatVersionError, match=r"has format version .* reads \[1, 2\]: update"):
        load_increment(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [Q, K + ".up", K + ".down", "gram.tokens"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value, where):
    tensors = {
        Q: np.ones((2, 2), np.float32),
        K + ".up": np.ones((2, 1), np.float32),
        K + ".down": np.ones((1, 2), np.float32),
        "gram.tokens": np.ones((2, 1), np.float32),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(assemble(body_of("x", {Q: (2, 2), K: (2, 2)}), tensors))
    load_increment(path)

    tensors[where] = tensors[where] * value
    path.write_bytes(assemble(body_of("x", {Q: (2, 2), K: (2, 2)}), tensors))
    with pytest.raises(IncrementFileError, match=f"1 of 4 tensors hold NaN or infinity.*{where}"):
        load_increment(path)


def broken(**changes: object) -> Increment:
    parts = {name: getattr(make(), name) for name in Increment.__dataclass_fields__}

    return Increment(**{**parts, **changes})


@pytest.mark.parametrize(
    ("increment", "message"),
    [
        (of_matrices({A: torch.tensor([[float("nan")]])}), "1 of 1 tensors hold NaN.*attn2"),
        (of_matrices({A: torch.full((2, 2), 1e300, dtype=torch.float64)}), "hold NaN or infinity"),
        (broken(provenance=Provenance("a/b")), "not saved.*'a/b'"),
        (broken(provenance=Provenance("x", settings={"a": float("nan")})), "not finite"),
        (broken(history=({"step": 3},)), "not saved.*is no step"),
        (broken(grams={"tokens": torch.ones(3, 3)}), r"not saved.*gram.tokens has shape \(3, 3\)"),
        (broken(readers={C: "tokens"}), "not saved.*does not read 'tokens' alone"),
        (sum(make(f"concept number {i}", i) for i in range(20)), "not saved.*at most 200"),
    ],
    ids=["nan", "1e300", "name", "setting", "history", "gram", "readers", "long sum"],
)
def test_nothing_is_saved_that_could_not_be_loaded(tmp_path, increment, message):
    path = tmp_path / "x.safetensors"
    with pytest.raises(IncrementFileError, match=message) as told:
        save_increment(increment, path)
    assert "multierase-tmp" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept_unless_asked(file):
    before = file.read_bytes()
    with pytest.raises(AlreadyThere, match="exists already"):
        save_increment(make(seed=2), file)
    assert file.read_bytes() == before

    save_increment(make(seed=2), file, overwrite=True)
    assert load_increment(file) == make(seed=2)


def test_a_full_disk_leaves_the_old_file(file, monkeypatch):
    before = file.read_bytes()

    def full(path, tensors, metadata):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(format_module, "write_container", full)
    with pytest.raises(WriteError, match="cannot write .*van-gogh.*: No space left.*nothing was"):
        save_increment(make(seed=2), file, overwrite=True)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_digest_covers_all_that_is_said_and_all_numbers(tmp_path):
    body = body_of("x", {Q: (2, 2)})
    tensors = {Q: np.ones((2, 2), np.float32)}
    right = digest(body, tensors)
    path = tmp_path / "x.safetensors"

    other = {**body, "provenance": {**body["provenance"], "seed": 1}}
    for changed, numbers in ((other, tensors), (body, {Q: -tensors[Q]})):
        path.write_bytes(assemble(changed, numbers, sha256=right))
        with pytest.raises(IncrementFileError, match="damaged: its contents do not have the SHA"):
            load_increment(path)


# ---- a base


def test_an_increment_fits_its_own_base_only(tiny, noto):
    parameters = tiny.parameters()
    require_fits(noto, parameters)

    name = sorted(noto.deltas)[0]
    with torch.no_grad():
        parameters[name][0, 0] += 1
    message = f"made for another base: 1 of {len(noto.deltas)}.*first '{name}'"
    with pytest.raises(IncrementFileError, match=message):
        require_fits(noto, parameters)


def test_a_cast_base_is_the_same_one(tiny, noto):
    require_fits(noto, {name: tensor.half() for name, tensor in tiny.parameters().items()})


def test_a_header_can_be_asked_as_well_as_an_increment(tiny, noto, tmp_path):
    header = read_header(save_increment(noto, tmp_path / "noto.safetensors"))
    assert header.shapes == noto.shapes
    require_fits(header, tiny.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("unet.conv_in.weight", (1, 1), r"conv_in.weight has shape \(1, 1\), this model's has"),
        ("unet.nothing", (1,), "changes 1 parameters that this model lacks, first 'unet.nothing'"),
    ],
)
def test_names_and_shapes_must_be_the_models(tiny, name, shape, message):
    with pytest.raises(IncrementFileError, match=message):
        require_fits(of_matrices({name: torch.ones(shape)}), tiny.parameters())


def test_readers_are_kept_with_the_file(file):
    assert load_increment(file).readers == {A: READERS[A]}


KILLS = """
import os, signal, sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from making import make
from multierase import Library, load_increment, save_increment

folder = Path(sys.argv[1])
path = folder / "van-gogh.safetensors"
both = [make(seed=seed, shape=(400, 400)) for seed in range(2)]
save_increment(both[0], path)
left = 0
for number in range(20):
    child = os.fork()
    if child == 0:
        while True:
            save_increment(both[number % 2], path, overwrite=True)
            save_increment(both[1 - number % 2], path, overwrite=True)
    time.sleep(0.05 + 0.003 * number)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert load_increment(path) in both
    left += len(list(folder.iterdir())) - 1
assert list(Library(folder)) == ["Van Gogh"]
save_increment(both[0], path, overwrite=True)
assert [file.name for file in folder.iterdir()] == [path.name], list(folder.iterdir())
print("left behind and collected:", left)
"""


@pytest.mark.slow
def test_twenty_kills_while_saving_leave_a_whole_file(tmp_path):
    """What they leave behind is not taken for an increment, and goes with the next save."""
    process = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), str(HERE)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split(":")[1]) > 0, "no kill came while a file was being written"
