import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from multierase.errors import UsageError, WeightsFileError
from multierase.evaluation.erasers import (
    SLD,
    UCE,
    NegativePrompt,
    Peer,
    SafeLatentDiffusion,
    SafetyGuidance,
    peer_digest,
)
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes
from multierase.generate import generate
from multierase.models.loading import from_pipeline
from multierase.sampling import SamplingSettings

pytestmark = pytest.mark.slow  # many pictures and programs

FEW = SamplingSettings(inference_steps=6, batch_size=2)
PROMPTS, SEEDS = ("a church by Noto", "a cat by Twemoji", "a cat"), (0, 1, 2)


def pictures(model):
    return generate(model, PROMPTS, SEEDS, FEW)


def generators():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def of_base(emoji):
    return pictures(emoji)


def test_the_names_are_the_negative_prompt(emoji, of_base):
    with NegativePrompt(emoji).erasing("Noto", "Twemoji"):
        found = pictures(emoji)

    theirs = emoji.pipeline(
        list(PROMPTS),
        negative_prompt=["Noto, Twemoji"] * 3,
        num_inference_steps=6,
        guidance_scale=3.0,
        generator=generators(),
        output_type="pt",
    ).images
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=0)
    assert (found - of_base).abs().max() > 0.05
    assert torch.equal(pictures(emoji), of_base)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", SLD)
def test_safe_latent_diffusion_is_that_of_diffusers(emoji, of_base, name):
    theirs = pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
    base, given, steps = emoji.pipeline, SLD[name], FEW.inference_steps
    parts = {part: getattr(base, part) for part in ("vae", "text_encoder", "tokenizer", "unet")}
    pipeline = theirs.StableDiffusionPipelineSafe(
        **parts,
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.safety_concept = "Noto"
    pipeline.set_progress_bar_config(disable=True)

    images = pipeline(
        list(PROMPTS),
        num_inference_steps=steps,
        guidance_scale=FEW.guidance_scale,
        output_type="np",
        generator=generators(),
        sld_guidance_scale=given.scale,
        sld_warmup_steps=round(given.warmup * steps / 50),
        sld_threshold=given.threshold,
        sld_momentum_scale=given.momentum,
        sld_mom_beta=given.decay,
    ).images
    with SafeLatentDiffusion(emoji, given, FEW).erasing("Noto"):
        found = pictures(emoji)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), images, atol=1e-3)
    assert (found - of_base).abs().max() > 1e-3
    assert torch.equal(pictures(emoji), of_base)


def test_the_papers_hyper_parameters_are_those_of_diffusers():
    theirs = pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
    for name, given in SLD.items():
        level = name.removeprefix("sld-").upper()
        values = list(getattr(theirs.SafetyConfig, level).values())
        values[1] = 200 if name == "sld-weak" else values[1]  # the paper's own number
        ours = [given.warmup, given.scale, given.threshold, given.momentum, given.decay]
        assert values == ours


@pytest.mark.parametrize(("scale", "warmup"), [(0, 0), (5000, 50)])
def test_without_guidance_or_before_its_warm_up_it_is_the_base(emoji, of_base, scale, warmup):
    guidance = SafetyGuidance(scale, warmup, 1.0, 0.5, 0.7)
    with SafeLatentDiffusion(emoji, guidance, FEW).erasing("Noto"):
        assert torch.equal(pictures(emoji), of_base)


def test_uce_is_solved_for_each_set_and_keeps_the_others_of_its_kind(emoji, of_base):
    kinds = [("Noto", "Twemoji", "Firefox"), ("church", "cat")]
    uce = UCE(emoji, kinds)
    studios, things = ["Noto", "Twemoji", "Firefox"], ["church", "cat"]
    assert sorted(uce.concerned(["Noto"])) == sorted(studios)
    assert sorted(uce.concerned(["Noto", "cat"])) == sorted(studios + things)
    assert uce.concerned(["nudity"]) == ["nudity"]
    assert UCE(emoji, []).concerned(["Noto"]) == ["Noto"]

    name = next(iter(emoji.readers))
    before = emoji.parameters()[name].detach().clone()
    with uce.erasing("Noto"):
        edited, found = emoji.parameters()[name].detach().clone(), pictures(emoji)
    with UCE(emoji, []).erasing("Noto"):  # of a suite without labels
        alone = emoji.parameters()[name].detach().clone()

    assert not torch.allclose(edited, before, atol=1e-3)
    assert not torch.allclose(alone, edited, atol=1e-3)
    assert (found - of_base).abs().max() > 0.05
    assert torch.equal(pictures(emoji), of_base)


def test_weights_come_back_also_after_an_error(emoji, of_base):
    with pytest.raises(KeyboardInterrupt), UCE(emoji, []).erasing("Noto"):
        raise KeyboardInterrupt
    assert torch.equal(pictures(emoji), of_base)


@pytest.fixture
def other(tiny, tmp_path):
    """Another model of the tiny one's shapes, and its pipeline's folder."""
    pipeline, chance = copy.deepcopy(tiny.pipeline), torch.Generator().manual_seed(1)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        for weight in part.parameters():
            weight.data += 0.05 * torch.randn(weight.shape, generator=chance)

    pipeline.save_pretrained(tmp_path / "other")
    return from_pipeline(pipeline, "other"), tmp_path / "other"


def test_a_peers_folder_is_its_pictures(tiny, other):
    other, folder = other
    before, theirs = pictures(tiny), pictures(other)
    with Peer(tiny, folder).erasing("Noto"):
        torch.testing.assert_close(pictures(tiny), theirs, atol=1e-5, rtol=0)
    assert torch.equal(pictures(tiny), before)
    assert (before - theirs).abs().max() > 0.05


@pytest.mark.parametrize("layout", ["file.safetensors", "flat.pt", "nested.pt", "part.safetensors"])
def test_a_peers_denoiser_weights(tiny, other, tmp_path, layout):
    other, _ = other
    ((component, denoiser),) = other.components.items()
    theirs = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    if layout.startswith("part"):  # as UCE and ESD write it: what they changed
        theirs = {name: tensor for name, tensor in theirs.items() if "attn2.to_k" in name}

    path = tmp_path / layout
    if path.suffix == ".safetensors":
        save_file(theirs, path)
    else:
        torch.save(nested(theirs, component) if "nested" in layout else theirs, path)
    with Peer(tiny, path).erasing("Noto"):
        state = tiny.components[component].state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in theirs.items())


def nested(weights, component):
    """By module, as ESD wrote its files."""
    modules = {}
    for name, tensor in weights.items():
        module, _, own = name.rpartition(".")
        modules.setdefault(f"{component}.{module}", {})[own] = tensor
    return modules


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda name, w: {"lora_x": w}, "1 of 1 weights have another name or shape.*lora_x"),
        (lambda name, w: {name: w[:1]}, "1 of 1 weights have another name or shape"),
        (lambda name, w: {name: torch.full_like(w, torch.nan)}, "holds NaN or infinity"),
        (lambda name, w: {name: w, "step": 3}, "step is a int, not a weight"),
        (lambda name, w: {name: w, "\x1b[31m": "x"}, r"\\x1b\[31m is a str, not a weight"),
        (lambda name, w: {}, "0 of 0 weights"),
        (lambda name, w: [w], "it is a list, not a weight"),
    ],
)
def test_what_is_no_model_of_the_base_is_refused(tiny, tmp_path, make, message):
    denoiser = next(iter(tiny.components.values()))
    name, weight = next(iter(denoiser.state_dict().items()))
    torch.save(make(name, weight.clone()), tmp_path / "theirs.pt")
    with pytest.raises(WeightsFileError, match=message):
        Peer(tiny, tmp_path / "theirs.pt")


def test_a_peer_that_is_not_there(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="no base at"):
        Peer(tiny, tmp_path)
    with pytest.raises(FileNotFoundError, match="no peer's model at"):
        peer_digest(tmp_path / "nothing")


def test_a_peers_digest_is_of_names_and_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = peer_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert peer_digest(tmp_path) != first
    (tmp_path / "b").rename(tmp_path / "a")
    assert peer_digest(tmp_path) == first


def test_every_method_has_the_bases_own_pictures_where_nothing_is_erased(
    experiment, tmp_path, emoji
):
    emoji.pipeline.save_pretrained(tmp_path / "peer")
    features = {}
    for method in ("uce", "negative-prompt", "sld-max", "peer"):
        peer = str(tmp_path / "peer") if method == "peer" else None
        own = Experiment(suite=experiment.suite, method=method, peer=peer, device="cpu")
        evaluator = Evaluator(own)
        features[method] = [evaluator.observe(erased).features for erased in ((), ("Noto",))]

    for a, b in itertools.pairwise(features.values()):
        assert np.array_equal(a[0], b[0])
    for method, (base, erased) in features.items():  # this peer has erased nothing
        assert np.array_equal(base, erased) == (method == "peer")


def test_another_method_is_swept_like_increments(experiment, tmp_path):
    own = Experiment(suite=experiment.suite, method="uce", device="cpu")
    with sweep(own, [("", ("Noto",))], tmp_path / "uce.db", executor=Processes(1)) as store:
        assert store.settings()["method"] == "uce"
        assert store.done() == {(), ("Noto",)}


def test_settings_that_cannot_be(experiment, tmp_path):
    bare = Experiment(suite=experiment.suite, method="sld-weak", device="cpu")
    with pytest.raises(UsageError, match="asks for none of \\['Notto'\\]; did you mean 'Noto'"):
        sweep(bare, [("", ("Notto",))], tmp_path / "a.db")

    peer = dataclasses.replace(bare, method="peer", peer=str(tmp_path))
    with pytest.raises(UsageError, match="one set of concepts erased, given 2 sets"):
        sweep(peer, [("", ("Noto",)), ("", ("Twemoji",))], tmp_path / "a.db")
    with pytest.raises(UsageError, match="guidance_scale 1 is none: give more than 1"):
        Evaluator(dataclasses.replace(bare, guidance_scale=1.0))

    increments = dataclasses.replace(bare, method="increments")
    for call in (lambda: Evaluator(increments), lambda: sweep(increments, [], tmp_path / "a.db")):
        with pytest.raises(UsageError, match="increments are in a library: give its folder"):
            call()
    assert not (tmp_path / "a.db").exists()
