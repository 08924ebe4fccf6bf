"""Files of other people's weights are read as numbers, and never run."""

import pickle

import pytest
import torch

from multierase.errors import WeightsFileError
from multierase.evaluation.weights import read_weights

RAN = []


class Malicious:
    def __reduce__(self):
        return (RAN.append, ("run",))


def test_code_in_a_pickle_is_not_run(tmp_path):
    torch.save({"weight": Malicious()}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"weight": Malicious()}))
    for name in ("new.pt", "old.pt"):
        with pytest.raises(
            WeightsFileError, match=f"{name} holds no weights that can be read safely"
        ):
            read_weights(tmp_path / name)
    assert RAN == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.pt", b""),
        ("text.pt", b"no weights, but a text"),
        ("cut.pt", b"\x80\x02}q\x00X"),
        ("zip.pt", b"PK\x03\x04" + bytes(40)),
        ("text.safetensors", b"no weights"),
        ("header.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
    ],
)
def test_every_damage_is_one_error(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightsFileError, match="holds no weights that can be read safely"):
        read_weights(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_weights(tmp_path / "nothing.pt")
