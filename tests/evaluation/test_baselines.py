import dataclasses
import itertools

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from safetensors.torch import save_file

from multierase.base import Base
from multierase.evaluation.baselines import (
    SLD,
    UCE,
    NegativePrompt,
    Peer,
    SafeLatentDiffusion,
    SafetyGuidance,
    peer_digest,
)
from multierase.evaluation.evaluator import Evaluator, Subject
from multierase.evaluation.executors import BaseOnce, Processes
from multierase.evaluation.sweep import sweep
from multierase.generate import SamplingSettings, generate

FEW = SamplingSettings(inference_steps=6, batch_size=2)
PROMPTS, SEEDS = ("a church by Noto", "a cat by Twemoji", "a cat"), (0, 1, 2)


def pictures(base, sampling=FEW):
    return generate(base, PROMPTS, SEEDS, sampling)


@pytest.fixture(scope="module")
def reference(emoji):
    return pictures(emoji)


def test_the_names_are_the_negative_prompt(emoji, reference):
    with NegativePrompt(emoji).erased("Noto", "Twemoji"):
        found = pictures(emoji)
    noise = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    theirs = emoji.pipeline(
        list(PROMPTS), negative_prompt=["Noto, Twemoji"] * 3, num_inference_steps=6, guidance_scale=3.0,
        generator=noise, output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=0)
    assert (found - reference).abs().max() > 0.05
    assert torch.equal(pictures(emoji), reference)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", SLD)
def test_safe_latent_diffusion_is_that_of_diffusers(emoji, reference, name):
    theirs = pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
    base, given, steps = emoji.pipeline, SLD[name], FEW.inference_steps
    pipeline = theirs.StableDiffusionPipelineSafe(
        vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer, unet=base.unet,
        scheduler=base.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.safety_concept = "Noto"
    pipeline.set_progress_bar_config(disable=True)
    values = (given.scale, round(given.warmup * steps / 50), given.threshold, given.momentum, given.decay)
    options = dict(
        zip(("guidance_scale", "warmup_steps", "threshold", "momentum_scale", "mom_beta"), values, strict=True)
    )
    images = pipeline(
        list(PROMPTS), num_inference_steps=steps, guidance_scale=FEW.guidance_scale, output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        **{f"sld_{key}": value for key, value in options.items()},
    ).images  # fmt: skip
    with SafeLatentDiffusion(emoji, given, FEW).erased("Noto"):
        found = pictures(emoji)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), images, atol=1e-3)
    assert (found - reference).abs().max() > 1e-3
    assert torch.equal(pictures(emoji), reference)


def test_the_papers_hyper_parameters_are_those_of_diffusers():
    theirs = pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe").SafetyConfig
    for name, given in SLD.items():
        values = list(getattr(theirs, name.removeprefix("sld-").upper()).values())
        values[1] = 200 if name == "sld-weak" else values[1]  # the paper's own number
        assert values == [given.warmup, given.scale, given.threshold, given.momentum, given.decay]


def test_without_guidance_or_before_its_warm_up_it_is_the_base(emoji, reference):
    for guidance in (SafetyGuidance(0, 0, 1.0, 0.5, 0.7), SafetyGuidance(5000, 50, 1.0, 0.5, 0.7)):
        with SafeLatentDiffusion(emoji, guidance, FEW).erased("Noto"):
            assert torch.equal(pictures(emoji), reference)


def test_uce_against_the_equation(emoji, reference):
    """Column by column, in NumPy: erased tokens go where their sentences without the concept are, kept ones stay."""
    kinds = [("Noto", "Twemoji", "Firefox"), ("church", "cat")]
    uce = UCE(emoji, kinds)
    name = next(iter(uce.parameters))
    before = uce.parameters[name].detach().double().numpy().copy()
    left, right = 0.5 * before, 0.5 * np.eye(before.shape[1])
    for studio in kinds[0]:
        for old, new in zip(*(part.numpy() for part in uce._pair(studio)), strict=True):
            left = left + before @ np.outer(new if studio == "Noto" else old, old)
            right = right + np.outer(old, old)
    with uce.erased("Noto"):
        edited, found = uce.parameters[name].detach().clone(), pictures(emoji)
    np.testing.assert_allclose(edited.numpy(), left @ np.linalg.inv(right), atol=1e-5)
    assert (found - reference).abs().max() > 0.05
    assert torch.equal(pictures(emoji), reference)
    with UCE(emoji, []).erased("Noto"):  # of a suite without labels
        assert not np.allclose(uce.parameters[name].detach().numpy(), before, atol=1e-3)


@pytest.fixture
def other(tokenizer, tiny, tmp_path):
    """Another model of the tiny base's shapes, and its pipeline's folder."""
    base = Base(tiny_pipeline(tokenizer, seed=1), "other")
    base.pipeline.save_pretrained(tmp_path / "other")
    return base, tmp_path / "other"


def test_a_peers_folder_is_its_pictures(tiny, other):
    other, folder = other
    before, theirs = pictures(tiny), pictures(other)
    with Peer(tiny, folder).erased("Noto"):
        torch.testing.assert_close(pictures(tiny), theirs, atol=1e-5, rtol=0)
    assert torch.equal(pictures(tiny), before) and (before - theirs).abs().max() > 0.05


@pytest.mark.parametrize("layout", ["file.safetensors", "flat.pt", "nested.pt", "part.safetensors"])
def test_a_peers_unet_weights(tiny, other, tmp_path, layout):
    other, _ = other
    theirs, path = {name: tensor.clone() for name, tensor in other.unet.state_dict().items()}, tmp_path / layout
    if layout.startswith("part"):  # as UCE and ESD write it: what they changed
        theirs = {name: tensor for name, tensor in theirs.items() if "attn2.to_k" in name}
    if path.suffix == ".safetensors":
        save_file(theirs, path)
    else:  # as ESD wrote it: by module
        modules = {name.rpartition(".")[0]: {} for name in theirs}
        for name, tensor in theirs.items():
            modules[name.rpartition(".")[0]][name.rpartition(".")[2]] = tensor
        torch.save({f"unet.{name}": inner for name, inner in modules.items()} if "nested" in layout else theirs, path)
    with Peer(tiny, path).erased("Noto"):
        state = tiny.unet.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in theirs.items())


class Malicious:
    def __reduce__(self):
        return (print, ("run",))


def test_what_is_no_model_of_the_base_is_refused(tiny, other, tmp_path, sd_folder):
    weights = {name: tensor.clone() for name, tensor in tiny.unet.state_dict().items()}
    name = next(iter(weights))
    save_file({"lora_unet_x": weights[name]}, tmp_path / "names.safetensors")
    save_file({name: weights[name][:1].clone()}, tmp_path / "shapes.safetensors")
    save_file({name: torch.full_like(weights[name], torch.nan)}, tmp_path / "nan.safetensors")
    torch.save({name: weights[name], "step": 3}, tmp_path / "other.pt")
    torch.save({name: Malicious()}, tmp_path / "code.pt")
    (tmp_path / "text.safetensors").write_text("no weights")
    for file, message in {
        "names.safetensors": "1 of 1 weights have another name or shape, 0 are missing, first \\['lora_unet_x'\\]",
        "shapes.safetensors": "1 of 1 weights have another name or shape",
        "nan.safetensors": "holds NaN or infinity",
        "other.pt": "step is a int, not a weight",
        "code.pt": "no weights that can be read safely",
        "text.safetensors": "no weights that can be read safely",
    }.items():
        with pytest.raises(ValueError, match=message):
            Peer(tiny, tmp_path / file)
    with pytest.raises(FileNotFoundError, match="no base at"):
        Peer(tiny, tmp_path)
    with pytest.raises(FileNotFoundError, match="no peer's model at"):
        peer_digest(tmp_path / "nothing")


def test_every_method_has_the_bases_own_pictures_where_nothing_is_off(subject, tmp_path, emoji):
    emoji.pipeline.save_pretrained(tmp_path / "peer")
    looks, once = {}, BaseOnce(Processes(1))
    for method, peer in [("uce", None), ("negative-prompt", None), ("sld-max", None), ("peer", str(tmp_path / "peer"))]:
        own = Subject(suite=subject.suite, method=method, peer=peer, device="cpu")
        looks[method] = {off: Evaluator(own).look(off).features for off in ((), ("Noto",))}
        if method == "uce":
            database = sweep(own, [("", ("Noto",))], tmp_path / "uce.db", executor=once)
            assert database.settings()["method"] == "uce" and database.done() == {(), ("Noto",)}
            # Not to the bit: a sweep works in one thread, this process in as many as there are.
            np.testing.assert_allclose(database.features(), looks["uce"][()], rtol=1e-3, atol=1e-4)
    for a, b in itertools.pairwise(looks.values()):
        assert np.array_equal(a[()], b[()])
    assert np.array_equal(looks["peer"][()], looks["peer"][("Noto",)])  # this peer has erased nothing
    assert all(not np.array_equal(looks[m][()], looks[m][("Noto",)]) for m in looks if m != "peer")
    assert np.array_equal(once.base.features, database.features())


def test_subjects_that_cannot_be(subject, tmp_path):
    for options, message in [
        ({"method": "uec"}, "method 'uec'; did you mean 'uce'\\?; give one of \\['increments', 'negative-prompt'"),
        ({}, "increments are in a library: give its folder, or another method"),
        ({"method": "peer"}, "goes with the method 'peer', and only with it"),
        ({"method": "uce", "peer": "x"}, "goes with the method 'peer', and only with it"),
    ]:
        with pytest.raises(ValueError, match=message):
            Subject(suite=subject.suite, **options)
    bare = Subject(suite=subject.suite, method="sld-weak", device="cpu")
    with pytest.raises(ValueError, match="asks for none of \\['Notto'\\]; did you mean 'Noto'\\?; it asks for"):
        sweep(bare, [("", ("Notto",))], tmp_path / "a.db")
    peer = dataclasses.replace(bare, method="peer", peer=str(tmp_path))
    with pytest.raises(ValueError, match="one set of concepts off, given 2 sets"):
        sweep(peer, [("", ("Noto",)), ("", ("Twemoji",))], tmp_path / "a.db")
    with pytest.raises(ValueError, match="guidance_scale 1 is none: give more than 1"):
        Evaluator(dataclasses.replace(bare, guidance_scale=1.0))
    assert not (tmp_path / "a.db").exists()
