import errno
import json
import multiprocessing
import os
import pickle
import signal
import struct
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_increments import assert_same, make

from multierase import library as library_module
from multierase.base import Fingerprint
from multierase.concepts import TaggedPrompt
from multierase.decoupling import KeepList
from multierase.increments import Factors, Increment
from multierase.library import (
    IncrementFileError,
    Library,
    UnknownConcept,
    load_increment,
    require_fits,
    save_increment,
)


@pytest.fixture
def file(tmp_path):
    return save_increment(make("Van Gogh", 1, factored=("a",)), tmp_path / "van-gogh.safetensors")


def test_round_trip_is_exact(file):
    stored, made = load_increment(file), make("Van Gogh", 1, factored=("a",))
    assert torch.equal(stored.deltas["a"].up, made.deltas["a"].up)
    assert torch.equal(stored.deltas["a"].down, made.deltas["a"].down)
    assert torch.equal(stored.deltas["b"], made.deltas["b"])
    assert torch.equal(stored.gram, made.gram)
    assert stored.base == made.base
    assert dict(stored.info) == dict(made.info)


def test_a_factor_in_common_is_stored_once(tmp_path):
    generator = torch.Generator().manual_seed(0)
    down, own = torch.randn(3, 6, generator=generator), torch.randn(2, 6, generator=generator)
    deltas = {name: Factors(torch.randn(5, 3, generator=generator), down.clone()) for name in ("a", "b", "d")}
    deltas["c"] = Factors(torch.randn(5, 2, generator=generator), own)
    made = Increment(deltas, Fingerprint.of("tiny", {name: torch.randn(5, 6) for name in deltas}), {"concept": "x"})
    path = save_increment(made, tmp_path / "x.safetensors")
    with safe_open(path, "pt") as stored:
        assert sorted(stored.keys()) == ["a.up", "b.up", "c.down", "c.up", "d.up", "shared.down"]
        tensors, metadata = {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata()  # noqa: SIM118
    assert_same(load_increment(path), made)
    del tensors["shared.down"]
    body = json.loads(metadata["multierase"])
    body.pop("sha256")
    body["sha256"] = library_module._sha256(tensors, body)
    save_file(tensors, path, metadata={"multierase": json.dumps(body, sort_keys=True)})
    with pytest.raises(IncrementFileError, match="a has one factor only"):
        load_increment(path)


def golden_increment():
    weight = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    return Increment(
        {"w": torch.tensor([[0.25, 0.0], [0.0, -0.5]])}, Fingerprint.of("tiny", {"w": weight}), {"concept": "x"}
    )


def test_golden_bytes(tmp_path):
    """The file of format version 1, to the byte: docs/increment-file.md says what each part is."""
    header, payload = (
        b'{"__metadata__":{"multierase":"%s"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}',
        struct.pack("<4f", 0.25, 0.0, 0.0, -0.5),
    )
    metadata = (
        '{"base": {"digests": {"w": "%(digest)s"}, "dtype": "float32", "name": "tiny", "sketches": {"w": %(sketch)s}}, '
        '"format_version": 1, "info": {"concept": "x"}, "sha256": "%(sha)s"}'
    )
    data = save_increment(golden_increment(), tmp_path / "x.safetensors").read_bytes()
    body = json.loads(json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]["multierase"])
    values = {
        "digest": body["base"]["digests"]["w"],
        "sketch": json.dumps(body["base"]["sketches"]["w"]),
        "sha": body["sha256"],
    }
    text = header % (metadata % values).replace('"', '\\"').encode()
    text += b" " * (-len(text) % 8)
    assert data == struct.pack("<Q", len(text)) + text + payload
    assert body["sha256"] == GOLDEN_SHA256


GOLDEN_SHA256 = "8a16999dffbfdac4cc3476d8f85a0b4f44c79614ff2aac45fa1cdba2c92327df"


def test_equal_increments_are_equal_files(tmp_path):
    one = save_increment(make("x", 1), tmp_path / "1.safetensors").read_bytes()
    assert all(save_increment(make("x", 1), tmp_path / f"{i}.safetensors").read_bytes() == one for i in range(5))


def test_every_flipped_byte_is_noticed(file):
    data = bytearray(file.read_bytes())
    for position in range(0, len(data), max(1, len(data) // 150)):
        broken = bytearray(data)
        broken[position] ^= 0x04
        file.write_bytes(broken)
        with pytest.raises(IncrementFileError):
            load_increment(file)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_file_cut_short_is_refused(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(IncrementFileError, match="not a whole safetensors file"):
        load_increment(file)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("/tmp/multierase-pickle-was-run",)


def test_a_pickle_under_another_name_is_never_run(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(IncrementFileError, match="pickle"):
        load_increment(path)
    assert not os.path.exists("/tmp/multierase-pickle-was-run")


def test_nan_is_refused_both_ways(tmp_path, monkeypatch):
    weight = torch.ones(2, 2)
    broken = Increment({"w": torch.tensor([[0.0, float("nan")], [1, 1]])}, Fingerprint.of("b", {"w": weight}))
    path = tmp_path / "x.safetensors"
    with pytest.raises(IncrementFileError, match="NaN or infinity.*'w'"):
        save_increment(broken, path)
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(library_module, "_require_finite", lambda *_: None)
        save_increment(broken, path)
    with pytest.raises(IncrementFileError, match="NaN or infinity"):
        load_increment(path)


def test_other_safetensors_files_and_newer_formats_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(IncrementFileError, match="holds tensors but no increment"):
        load_increment(path)
    save_file({"w": torch.ones(2)}, path, metadata={"multierase": json.dumps({"format_version": 99})})
    with pytest.raises(IncrementFileError, match="format version 99"):
        load_increment(path)


def test_does_not_fit(tiny):
    weights = {"conv_in.weight": torch.ones(1, 1)}
    increment = Increment({"conv_in.weight": torch.ones(1, 1)}, Fingerprint.of("tiny", weights))
    with pytest.raises(IncrementFileError, match=r"shape \(1, 1\)"):
        require_fits(increment, dict(tiny.unet.named_parameters()))
    with pytest.raises(IncrementFileError, match="lacks, first 'a'"):
        require_fits(make("x", 1), dict(tiny.unet.named_parameters()))


def test_a_full_disk_leaves_the_old_file(file, monkeypatch):
    before = file.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(library_module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_increment(make("Van Gogh", 2), file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def _save_for_ever(path):
    seed = 0
    while True:
        save_increment(make("Van Gogh", seed % 2, shape=(400, 400)), path)
        seed += 1


def test_kill_while_saving_leaves_a_whole_file(tmp_path):
    path = tmp_path / "van-gogh.safetensors"
    save_increment(make("Van Gogh", 0, shape=(400, 400)), path)
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        process = context.Process(target=_save_for_ever, args=(path,))
        process.start()
        time.sleep(0.15)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert load_increment(path).concept == "Van Gogh"
    assert list(Library(tmp_path)) == ["Van Gogh"]  # what a killed save leaves behind is not taken for an increment


def test_library_is_a_mapping(tmp_path):
    library = Library(tmp_path / "lib", create=True)
    assert list(library) == []
    for name in ("Noto", "Fluent Flat"):
        library.save(make(name, 1))
    assert list(library) == ["Fluent Flat", "Noto"]
    assert (tmp_path / "lib" / "fluent-flat.safetensors").exists()
    assert "Noto" in library and "noto" not in library and len(library) == 2
    assert_same(library["Noto"], make("Noto", 1))
    assert library.infos()["Noto"]["base"] == "base"
    library.remove("Noto")
    assert list(library) == ["Fluent Flat"]


def test_library_sees_a_replaced_file(tmp_path):
    library = Library(tmp_path, create=True)
    library.save(make("Noto", 1))
    assert_same(library["Noto"], make("Noto", 1))
    library.save(make("Noto", 2))
    assert_same(library["Noto"], make("Noto", 2))


def test_library_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no library folder"):
        Library(tmp_path / "missing")
    library = Library(tmp_path, create=True)
    library.save(make("Twemoji", 1))
    with pytest.raises(UnknownConcept, match="'Twemojis'; did you mean 'Twemoji'.*it holds"):
        library["Twemojis"]
    with pytest.raises(ValueError, match="holds the concept 'Twemoji'"):
        library.save(make("TWEMOJI", 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_a_compressed_increment_is_stored_in_its_dtype_and_read_back_to_the_bit(tmp_path, dtype):
    whole = make("Van Gogh", 1, shape=(64, 48))
    small = whole.compressed(0.2, dtype)
    files = [save_increment(increment, tmp_path / f"{i}.safetensors") for i, increment in enumerate((whole, small))]
    stored = load_increment(files[1])
    assert files[1].stat().st_size < files[0].stat().st_size / 3
    with safe_open(files[1], "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys() if name.endswith(".up")} == {dtype}  # noqa: SIM118
    for name in small.deltas:
        assert torch.equal(stored.dense(name), small.dense(name)) and stored.deltas[name].up.dtype == torch.float32
    assert torch.equal(stored.gram, small.gram) and dict(stored.info) == dict(small.info)


def test_the_last_keep_list_is_kept_beside_the_library(emoji, tmp_path, monkeypatch):
    library, asked = Library(tmp_path), []
    library.save(make("Noto", 1))
    prompts = [TaggedPrompt("a church by Noto", frozenset({"noto"})), TaggedPrompt("a church")]

    def grams(prompts):
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(KeepList, "of", lambda *arguments: asked.append(1) or fresh(*arguments))
            return library.keep_list(emoji.text, prompts).grams

    fresh = KeepList.of
    first, again = grams(prompts), grams(prompts)
    assert not asked and first.keys() == again.keys() == {frozenset(), frozenset({"noto"})}
    assert all(torch.equal(first[tags], again[tags]) for tags in first)
    assert grams(prompts[:1]) and asked  # another list
    library.save(make("Twemoji", 2))
    assert grams(prompts[:1]) and asked  # a concept more
    (tmp_path / ".keep").write_bytes(b"damaged")
    assert grams(prompts[:1]) and asked
    assert grams(prompts[:1]) and not asked
    assert list(library) == ["Noto", "Twemoji"]
    monkeypatch.setattr(library_module, "save_file", _full_disk)
    assert grams(prompts) and asked  # it cannot be written: it is only a cache


def _full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, "no space left on device")
