"""The file: to the byte what docs/increment-file.md says, and read back to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from by_hand import K, Q, V, assemble, base_of, provenance_of
from making import NAMES, A, B, C, make, of_matrices
from safetensors import safe_open
from safetensors.torch import save

from multierase import Increment, erase, load_increment, save_increment
from multierase.increments.compression import compress
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.header import read_header
from multierase.increments.provenance import Cost, Provenance, Separation, Stop
from multierase.increments.value import Factors
from multierase.models.scopes import FAMILIES, Family, Scope

HERE = Path(__file__).parent


def names_in(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return sorted(file.keys())


@pytest.fixture
def file(tmp_path) -> Path:
    return save_increment(make(factored=(A,)), tmp_path / "van-gogh.safetensors")


# ---- the bytes


def test_golden_bytes_of_version_2(tmp_path):
    """A file that is written is byte for byte the one that the specification describes."""
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal((3, 2), np.float32) for name in (K, V, Q)}
    up, down = np.float32([[1], [2], [-3]]), np.float32([[0.25, -0.5]])
    dense = np.float32([[0.5, 0], [0, 0.125], [-1, 2]])
    gram = np.float32([[1, 0], [0.5, 2]])
    tensors = {
        "gram.tokens": gram,
        "shared.tokens.down": down,
        K + ".up": up,
        V + ".up": -up,
        Q: dense,
    }
    body = {
        "format_version": 2,
        "base": base_of(weights),
        "provenance": provenance_of(
            "Dalí",
            cost={"evaluations": 9, "seconds": 1.5, "peak_memory_mib": 7},
            stop={"reason": "erased", "steps": 2, "degree": 0.5, "degrees": [1.0, 0.5]},
            separation={
                "kept_exactly": [""],
                "kept_in_mean": {"prompts": 3, "sha256": "ab"},
                "directions": {"tokens": {"rank": 1.0, "residual": 0.5}},
            },
        ),
        "history": [{"step": "renamed", "from": "Salvador Dalí"}],
        "readers": {K: "tokens", V: "tokens"},
    }
    path = tmp_path / "dal.safetensors"
    path.write_bytes(assemble(body, tensors))

    read = load_increment(path)
    torch_up, torch_down = torch.from_numpy(up), torch.from_numpy(down)
    torch_weights = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    assert read == Increment(
        deltas={
            K: Factors(torch_up, torch_down),
            V: Factors(-torch_up, torch_down),
            Q: torch.from_numpy(dense),
        },
        base=Fingerprint.of("tiny", "stable-diffusion", torch_weights),
        provenance=Provenance(
            "Dalí",
            ("Dalí",),
            ("",),
            method="esd",
            scope="esd-x",
            settings={"steps": 3},
            seed=0,
            version="0.2.0",
            cost=Cost(9, 1.5, 7),
            stop=Stop("erased", 2, 0.5, (1.0, 0.5)),
            separation=Separation(
                ("",),
                {"prompts": 3, "sha256": "ab"},
                {"tokens": {"rank": 1.0, "residual": 0.5}},
            ),
        ),
        grams={"tokens": torch.from_numpy(gram)},
        readers={K: "tokens", V: "tokens"},
        history=({"step": "renamed", "from": "Salvador Dalí"},),
    )
    again = save_increment(read, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_golden_bytes_of_version_1(tmp_path):
    """Version 1 knew one family, one stream, and names without the component."""
    k, v, q = (name.removeprefix("unet.") for name in (K, V, Q))
    weights = {name: np.ones((3, 2), np.float32) for name in (k, v, q)}
    up, down = np.float32([[1], [2], [-3]]), np.float32([[0.25, -0.5]])
    tensors = {
        "gram.factor": np.float32([[1], [0.5]]),
        "shared.down": down,
        k + ".up": up,
        v + ".up": -up,
        v + ".down": 2 * down,
        q: np.float32([[0.5, 0], [0, 0.125], [-1, 2]]),
    }
    body = {
        "format_version": 1,
        "base": base_of(weights, version=1),
        "info": {"concept": "Dali", "seed": 3, "settings": {"objective": "correlation"}},
    }
    path = tmp_path / "dali.safetensors"
    path.write_bytes(assemble(body, tensors))

    read = load_increment(path)
    assert read.provenance == Provenance(
        "Dali", method="sepme", seed=3, settings={"objective": "correlation"}
    )
    assert read.base.family == "stable-diffusion"
    assert read.base.digests.keys() == {K, V, Q}
    assert read.readers == {K: "tokens", V: "tokens"}
    assert torch.equal(read.dense(K), torch.from_numpy(up @ down))
    assert torch.equal(read.dense(V), torch.from_numpy(-up @ (2 * down)))
    assert torch.equal(read.dense(Q), torch.from_numpy(tensors[q]))
    assert torch.equal(read.grams["tokens"], torch.tensor([[1.0], [0.5]]))
    assert read.history == ()

    rewritten = save_increment(read, tmp_path / "2.safetensors")
    assert read_header(rewritten).format_version == 2
    assert load_increment(rewritten) == read


@pytest.mark.parametrize("kind", ["format_1", "format_1_int8"])
def test_files_of_the_first_version_load_as_it_loaded_them(kind):
    """Both were written by version 0.1.0, and so were the numbers beside them."""
    read = load_increment(HERE / f"{kind}.safetensors")
    expected = json.loads((HERE / f"{kind}.json").read_text())
    info, made = expected["info"], read.provenance

    assert read.norm() == pytest.approx(expected["norm"], rel=1e-6)
    assert [read.base.name, read.base.dtype] == expected["base"]
    assert read.deltas.keys() == expected["parameters"].keys()
    for name, stated in expected["parameters"].items():
        delta = read.deltas[name]
        assert list(delta.shape) == stated["shape"]
        assert (delta.up.shape[1] if isinstance(delta, Factors) else None) == stated["rank"]
        assert read.dense(name).double().norm().item() == pytest.approx(stated["norm"], rel=1e-6)
        assert read.dense(name).flatten()[0].item() == pytest.approx(stated["corner"], rel=1e-5)
        assert read.base.digests[name] == stated["digest"]
        assert list(read.base.sketches[name]) == stated["sketch"]
    *shape, norm = expected["gram"]
    assert list(read.grams["tokens"].shape) == shape
    assert read.grams["tokens"].double().norm().item() == pytest.approx(norm)

    assert (made.concept, list(made.prompts), made.seed) == ("Noto", info["prompts"], info["seed"])
    assert (made.method, made.scope, made.settings) == ("esd", info["scope"], info["settings"])
    assert made.stop.steps == info["steps"] == 3
    assert (made.stop.degree, list(made.stop.degrees)) == (
        info["erasure_degree"],
        info["erasure_degrees"],
    )
    assert made.cost.evaluations == info["unet_evaluations"]
    assert list(made.separation.kept_exactly) == info["decoupled_from"]["exactly"]
    assert made.separation.directions["tokens"]["rank"] == info["rank"]
    compression = info.get("compression")
    assert read.history == (({"step": "compressed", **compression},) if compression else ())


def test_equal_increments_are_equal_files(tmp_path):
    files = {
        save_increment(make(factored=NAMES), tmp_path / f"{i}.safetensors").read_bytes()
        for i in range(5)
    }
    assert len(files) == 1


@pytest.mark.parametrize("case", ["dense", "shared", "float16", "int8", "a kernel", "a view"])
def test_the_bytes_are_those_that_safetensors_writes(tmp_path, case):
    path = save_increment(CASES[case], tmp_path / "é.safetensors")
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert save(tensors, metadata) == path.read_bytes()


# ---- there and back again


def shared_down() -> Increment:
    """Make three readers of which two share ``down``."""
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(3, 6, generator=generator)
    deltas = {
        "unet.1.attn2.to_k.weight": Factors(torch.randn(5, 3, generator=generator), down.clone()),
        "unet.1.attn2.to_v.weight": Factors(torch.randn(5, 3, generator=generator), down.clone()),
        "unet.2.attn2.to_k.weight": Factors(
            torch.randn(5, 2, generator=generator), torch.randn(2, 6, generator=generator)
        ),
        C: Factors(torch.randn(5, 3, generator=generator), down.clone()),
    }
    made = of_matrices(deltas)
    readers = {name: "tokens" for name in deltas if name != C}

    return Increment(made.deltas, made.base, made.provenance, {}, readers)


WIDE = {"shape": (64, 48), "names": NAMES}
CASES = {
    "dense": make(names=NAMES),
    "factored": make(names=NAMES, factored=NAMES),
    "mixed": make(names=NAMES, factored=(A, C)),
    "shared": shared_down(),
    "one vector": of_matrices({"unet.bias": torch.randn(7)}),
    "a kernel": of_matrices({"unet.conv": torch.randn(3, 2, 3, 3)}),
    "zeros": of_matrices({A: torch.zeros(3, 3)}),
    "a view": of_matrices({A: torch.randn(10, 12).T}),
    "float16": compress(make(**WIDE), 0.2),
    "int8": compress(make(**WIDE), 0.2, torch.int8),
    "int8, renamed": compress(make(**WIDE), 0.2, torch.int8).named("other"),
    "int8, scaled": 0.3 * compress(make(**WIDE), 0.2, torch.int8),
    "int8, twice": compress(compress(make(**WIDE), 0.1, torch.int8), 0.3),
    "float32 cut": compress(make(**WIDE), 0.2, torch.float32),
    "summed": make("a", factored=NAMES) + make("b", 2, names=(A, B), factored=NAMES),
    "Gram of nobody's stream": make(names=(C,)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_saved_is_what_is_loaded(tmp_path, case):
    made = CASES[case]
    read = load_increment(save_increment(made, tmp_path / "x.safetensors"))
    assert read == made
    assert read.grams.keys() == made.grams.keys()
    assert {delta.up.dtype for delta in read.deltas.values() if isinstance(delta, Factors)} <= {
        torch.float32
    }


def test_an_increment_of_what_does_not_read_text_is_loaded(tiny, quick, tmp_path):
    """Its concept's tokens are known, and none of its parameters reads them."""
    settings = type(quick)(**{**vars(quick), "scope": "selfattn", "decouple": False})
    made = erase(tiny, "Noto", settings)
    assert made.grams
    assert not made.readers

    path = save_increment(made, tmp_path / "noto.safetensors")
    assert load_increment(path) == made
    assert read_header(path).shapes == made.shapes


def test_a_factor_in_common_is_stored_once(tmp_path):
    path = save_increment(shared_down(), tmp_path / "x.safetensors")
    assert names_in(path) == [
        "shared.tokens.down",
        "unet.1.attn2.to_k.weight.up",
        "unet.1.attn2.to_v.weight.up",
        "unet.2.attn2.to_k.weight.down",
        "unet.2.attn2.to_k.weight.up",
        f"{C}.down",  # it reads no stream, so it shares with nobody
        f"{C}.up",
    ]


def test_every_stream_has_its_own_tensors(tmp_path, monkeypatch):
    """A model may be conditioned twice, as Stable Diffusion XL or a transformer is."""

    def reads(name: str) -> str | None:
        return name.split(".")[1] if name.split(".")[1] in ("tokens", "pooled") else None

    scopes = {"all": Scope("all", lambda name: True)}
    monkeypatch.setitem(FAMILIES, "double", Family(scopes, reads, exact_scope="all"))
    generator = torch.Generator().manual_seed(0)
    downs = {"tokens": torch.randn(2, 6, generator=generator)}
    downs["pooled"] = torch.randn(2, 4, generator=generator)
    deltas, readers = {}, {}
    for stream, down in downs.items():
        for layer in "kv":
            name = f"net.{stream}.{layer}"
            deltas[name] = Factors(torch.randn(5, 2, generator=generator), down)
            readers[name] = stream
    made = Increment(
        deltas=deltas,
        base=Fingerprint.of(
            "b", "double", {name: torch.ones(d.shape) for name, d in deltas.items()}
        ),
        provenance=Provenance("x"),
        grams={"tokens": torch.ones(6, 1), "pooled": torch.ones(4, 2)},
        readers=readers,
    )

    path = save_increment(made, tmp_path / "x.safetensors")
    assert load_increment(path) == made
    assert {name for name in names_in(path) if not name.startswith("net.")} == {
        "gram.tokens",
        "gram.pooled",
        "shared.tokens.down",
        "shared.pooled.down",
    }


@pytest.mark.parametrize(("dtype", "smaller"), [(torch.float16, 5), (torch.int8, 6)])
def test_a_compressed_increment_is_stored_in_its_dtype(tmp_path, dtype, smaller):
    whole = make(names=(A, B), shape=(256, 192), rank=24)
    small = compress(whole, 0.1, dtype)
    before = save_increment(whole, tmp_path / "whole.safetensors").stat().st_size
    after = save_increment(small, tmp_path / "small.safetensors")

    assert after.stat().st_size < before / smaller
    with safe_open(after, "pt") as file:
        stored = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    beside = torch.float32 if dtype == torch.int8 else dtype
    for name, found in stored.items():
        wanted = dtype if name.endswith(".up") else beside
        assert found == (torch.float16 if name.startswith("gram.") else wanted)
