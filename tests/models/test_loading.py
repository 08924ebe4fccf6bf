"""Folders, single files, and what is not loaded."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FluxTransformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from families import MAKE, length_of, tiny_flux, tiny_sd3, tiny_tower
from safetensors.torch import load_file, save_file
from single_file import T5, save_single_file
from torch import nn
from transformers import BertConfig, BertModel, CLIPTokenizer

from multierase import from_pipeline, load_base
from multierase.errors import DeviceError, WeightsFileError

FLUX_WIDTH = 3072
SINGLE_FILES = ["sdxl", "sd3", "flux-dev", "flux-schnell", "flux2-klein"]


def made(name: str, tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    if name.startswith("flux-"):
        return tiny_flux(tokenizer, schnell=name == "flux-schnell")
    return MAKE[name](tokenizer)


def made_to_be_whole(name: str, tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    """Make a pipeline whose CLIP-L is as diffusers reads it from SD3's files: projected by 1."""
    pipeline = made(name, tokenizer)
    if name == "sd3":
        pipeline.text_encoder = tiny_tower(tokenizer, 16, act="quick_gelu", pooled=16)
        nn.init.eye_(pipeline.text_encoder.text_projection.weight)

    return pipeline


def save_stranger(name: str, tokenizer: CLIPTokenizer, folder: Path) -> DiffusionPipeline:
    """Save a pipeline of the same sizes and other numbers, so that one sees what is read of it."""
    stranger = made_to_be_whole(name, tokenizer)
    for part in modules_of(stranger).values():
        for parameter in part.parameters():
            parameter.data.add_(1)
    stranger.save_pretrained(folder)

    return stranger


def modules_of(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    parts = pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module)}


def assert_same_bits(ours: nn.Module, theirs: nn.Module) -> None:
    values, expected = ours.state_dict(), theirs.state_dict()
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture
def flux_is_tiny(monkeypatch) -> None:
    """Let diffusers read FLUX's single files of a tiny width: it has the real one as a constant."""
    convert, width = convert_flux_transformer_checkpoint_to_diffusers, 32
    code = convert.__code__
    constants = tuple(width if value == FLUX_WIDTH else value for value in code.co_consts)
    monkeypatch.setattr(convert, "__code__", code.replace(co_consts=constants))


def test_emoji_is_an_ordinary_diffusers_folder(emoji):
    with resources.as_file(resources.files("multierase") / "assets" / "emoji") as folder:
        pipeline = StableDiffusionPipeline.from_pretrained(str(folder), dtype=torch.float32)
    here = emoji.parameters()
    for name, parameter in pipeline.unet.named_parameters():
        assert torch.equal(parameter, here[f"unet.{name}"])


def test_type_is_an_ordinary_diffusers_folder():
    """Diffusers wants to be told that there is no T5."""
    with resources.as_file(resources.files("multierase") / "assets" / "type") as folder:
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            str(folder), dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
        )
    here = load_base("type", device="cpu").parameters()
    for name, parameter in pipeline.transformer.named_parameters():
        assert torch.equal(parameter, here[f"transformer.{name}"])


def test_the_package_is_small():
    with resources.as_file(resources.files("multierase")) as folder:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size < 60e6


def test_a_single_file_is_the_same_base_as_its_folder(tiny, tmp_path):
    pipeline = tiny.pipeline
    pipeline.save_pretrained(tmp_path / "folder")
    save_single_file(pipeline, tmp_path / "sd.safetensors")
    folder = str(tmp_path / "folder")
    model = load_base(tmp_path / "sd.safetensors", config=folder, device="cpu")
    assert_same_bits(model.pipeline.unet, pipeline.unet)
    assert_same_bits(model.pipeline.vae, pipeline.vae)
    torch.testing.assert_close(
        model.encode(["a church"])["tokens"], tiny.encode(["a church"])["tokens"]
    )


@pytest.mark.usefixtures("flux_is_tiny")
@pytest.mark.parametrize("name", SINGLE_FILES)
def test_a_single_file_of_every_family_is_the_same_base_as_its_folder(name, tokenizer, tmp_path):
    pipeline = made(name, tokenizer)
    length = length_of(pipeline)
    folder, file = str(tmp_path / "folder"), tmp_path / "base.safetensors"
    pipeline.save_pretrained(folder)
    save_single_file(pipeline, file)
    expected = from_pipeline(pipeline, "tiny", t5_length=length)
    model = load_base(file, config=folder, device="cpu", t5_length=length)

    for part, module in pipeline.components.items():
        if isinstance(module, nn.Module):
            assert_same_bits(getattr(model.pipeline, part), module)
    ours, theirs = model.encode(["a church"]), expected.encode(["a church"])
    assert set(ours) == set(theirs)
    for stream in theirs:
        torch.testing.assert_close(ours[stream], theirs[stream])
    x_t = torch.randn(1, *expected.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500])
    with torch.no_grad():
        torch.testing.assert_close(model.predict(x_t, t, ours), expected.predict(x_t, t, theirs))


@pytest.mark.usefixtures("flux_is_tiny")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn], ids=["float32", "float8"])
@pytest.mark.parametrize("name", ["sd3", "flux-dev", "flux-schnell"])
def test_a_transformers_file_with_all_parts_is_read_whole(name, dtype, tokenizer, tmp_path):
    pipeline, file = made_to_be_whole(name, tokenizer), tmp_path / "base.safetensors"
    for part in modules_of(pipeline).values():
        for value in part.state_dict().values():
            value.copy_(value.to(dtype))
    save_stranger(name, tokenizer, tmp_path / "folder")
    # ComfyUI stores T5's embeddings once.
    embeddings = f"{T5}encoder.embed_tokens."
    save_single_file(pipeline, file, whole=True, without=[embeddings], dtype=dtype)

    model = load_base(
        file, config=str(tmp_path / "folder"), device="cpu", t5_length=length_of(pipeline)
    )
    assert model.dtype == torch.float32
    for part, module in modules_of(pipeline).items():
        assert_same_bits(getattr(model.pipeline, part), module)


@pytest.mark.usefixtures("flux_is_tiny")
@pytest.mark.parametrize(
    ("name", "without", "lacking"),
    [
        ("sd3", ["text_encoders."], {"text_encoder", "text_encoder_2", "text_encoder_3"}),
        ("sd3", ["first_stage_model."], {"vae"}),
        ("flux-dev", ["text_encoders."], {"text_encoder", "text_encoder_2"}),
        ("flux-dev", [T5, "vae."], {"text_encoder_2", "vae"}),
    ],
    ids=["sd3-no-towers", "sd3-no-vae", "flux-no-towers", "flux-no-t5-no-vae"],
)
def test_what_a_transformers_file_lacks_is_the_configs(name, without, lacking, tokenizer, tmp_path):
    pipeline, file = made_to_be_whole(name, tokenizer), tmp_path / "base.safetensors"
    stranger = save_stranger(name, tokenizer, tmp_path / "folder")
    save_single_file(pipeline, file, whole=True, without=without)

    model = load_base(
        file, config=str(tmp_path / "folder"), device="cpu", t5_length=length_of(pipeline)
    )
    for part, module in modules_of(pipeline).items():
        expected = getattr(stranger, part) if part in lacking else module
        assert_same_bits(getattr(model.pipeline, part), expected)


@pytest.mark.parametrize("t5", [True, False], ids=["config-with-t5", "config-without"])
def test_sd3_with_clip_and_no_t5_has_none(t5, tokenizer, tmp_path, caplog):
    pipeline, file = made_to_be_whole("sd3", tokenizer), tmp_path / "base.safetensors"
    other = pipeline if t5 else tiny_sd3(tokenizer, t5=False)
    other.text_encoder = pipeline.text_encoder
    other.save_pretrained(tmp_path / "folder")
    save_single_file(pipeline, file, whole=True, without=[T5])
    with caplog.at_level(logging.WARNING, logger="multierase"):
        model = load_base(file, config=str(tmp_path / "folder"), device="cpu")

    assert "has CLIP and no T5" in caplog.text
    assert model.pipeline.text_encoder_3 is None
    tokens = model.encode(["a church"])["tokens"]
    clip = pipeline.tokenizer_max_length
    assert tokens[:, :clip].any()
    assert not tokens[:, clip:].any()


def test_a_folder_of_sd3_without_t5(tokenizer, tmp_path):
    tiny_sd3(tokenizer, t5=False).save_pretrained(tmp_path / "folder")
    model = load_base(tmp_path / "folder", device="cpu")
    assert model.pipeline.text_encoder_3 is None


@pytest.mark.parametrize("name", ["scaled_fp8", "double_blocks.0.img_attn.qkv.scale_weight"])
def test_a_single_file_with_scales_beside_its_weights(name, tokenizer, tmp_path):
    path = tmp_path / "base.safetensors"
    save_single_file(made("flux-dev", tokenizer), path)
    save_file({**load_file(path), name: torch.ones(1)}, path)
    with pytest.raises(WeightsFileError, match="has scales beside its weights"):
        load_base(path)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("sd3", "stabilityai/stable-diffusion-3.5-medium"),
        ("flux-dev", "black-forest-labs/FLUX.1-dev"),
        ("flux-schnell", "black-forest-labs/FLUX.1-schnell"),
    ],
)
def test_by_default_the_rest_is_the_publishers(name, where, tokenizer, tmp_path, monkeypatch):
    """The first of the marks that the names have decides: those of SD 3.5 medium, as the tiny."""
    asked = []

    def load_config(source, **_):
        asked.append(source)
        raise OSError(f"no {source} here")

    for kind in (DiffusionPipeline, FluxTransformer2DModel):
        monkeypatch.setattr(kind, "load_config", load_config)
    save_single_file(made(name, tokenizer), tmp_path / "base.safetensors")
    with pytest.raises(FileNotFoundError, match="cannot load what single file"):
        load_base(tmp_path / "base.safetensors", device="cpu")
    assert asked == [where]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("sdxl", "sd3"),
        ("sd3", "flux-dev"),
        ("flux-dev", "sdxl"),
        ("flux-schnell", "sd3"),
        ("flux2-klein", "flux-schnell"),
        ("flux-schnell", "flux2-klein"),
    ],
)
def test_a_single_file_is_not_loaded_with_another_familys_config(name, other, tokenizer, tmp_path):
    pipeline, stranger = made(name, tokenizer), made(other, tokenizer)
    stranger.save_pretrained(tmp_path / "folder")
    save_single_file(pipeline, tmp_path / "base.safetensors")
    kinds = f"{type(pipeline).__name__}, and config .* is of a {type(stranger).__name__}"
    with pytest.raises(ValueError, match=f"is a single file of a {kinds}"):
        load_base(tmp_path / "base.safetensors", config=str(tmp_path / "folder"), device="cpu")


@pytest.mark.parametrize(
    "parameter",
    [
        "blocks.0.attn.weight",
        "model.diffusion_model.out.2.weight",
        "double_blocks.0.img_attn.qkv",
        "double_blocks.0.img_mod.linear.weight",
    ],
    ids=["unknown", "unet-alone", "flux2", "hunyuan"],
)
def test_a_single_file_of_no_family_that_is_known(tmp_path, parameter):
    save_file({parameter: torch.zeros(1)}, tmp_path / "base.safetensors")
    with pytest.raises(ValueError, match="not the single file of a family that is known"):
        load_base(tmp_path / "base.safetensors")


@pytest.mark.usefixtures("flux_is_tiny")
@pytest.mark.parametrize(("name", "other"), [("dev", "schnell"), ("schnell", "dev")])
def test_dev_and_schnell_are_told_apart(name, other, tokenizer, tmp_path):
    made(f"flux-{other}", tokenizer).save_pretrained(tmp_path / "folder")
    save_single_file(made(f"flux-{name}", tokenizer), tmp_path / "base.safetensors")
    with pytest.raises(WeightsFileError, match="one is FLUX.1 dev, whose guidance is an input"):
        load_base(tmp_path / "base.safetensors", config=str(tmp_path / "folder"), device="cpu")


@pytest.mark.usefixtures("flux_is_tiny")
@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev", "flux2-klein"])
def test_a_single_file_that_lacks_weights(name, tokenizer, tmp_path):
    pipeline, path = made(name, tokenizer), tmp_path / "base.safetensors"
    pipeline.save_pretrained(tmp_path / "folder")
    save_single_file(pipeline, path)
    weights = load_file(path)
    lacking = next(key for key in sorted(weights) if "blocks.1." in key and key.endswith("weight"))
    del weights[lacking]
    save_file(weights, path)
    with pytest.raises(WeightsFileError, match=r"is not complete|lacks \d+ weights of the"):
        load_base(path, config=str(tmp_path / "folder"), device="cpu")
    with pytest.raises(FileNotFoundError, match="no config at"):
        load_base(path, config=str(tmp_path / "nowhere"), device="cpu")


def test_of_flux_2_klein_alone_is_loaded_and_its_config_has_to_be_given(tokenizer, tmp_path):
    save_single_file(made("flux2-klein", tokenizer), tmp_path / "klein.safetensors")
    with pytest.raises(ValueError, match="is a single file of FLUX.2 klein, and does not say wh"):
        load_base(tmp_path / "klein.safetensors", device="cpu")
    weights = load_file(tmp_path / "klein.safetensors")
    weights["guidance_in.in_layer.weight"] = weights["time_in.in_layer.weight"].clone()
    save_file(weights, tmp_path / "dev.safetensors")
    with pytest.raises(ValueError, match="of FLUX.2 dev, which is not supported"):
        load_base(tmp_path / "dev.safetensors", device="cpu")


def test_a_length_that_cannot_be(tokenizer):
    with pytest.raises(ValueError, match="has neither T5 nor Qwen3 that could read 12 tokens"):
        from_pipeline(made("sdxl", tokenizer), "tiny", t5_length=12)
    with pytest.raises(ValueError, match="cannot read 513 tokens: give 1 to 512"):
        from_pipeline(made("sd3", tokenizer), "tiny", t5_length=513)
    with pytest.raises(ValueError, match="in 15 tokens: its chat template has 15, give more"):
        from_pipeline(made("flux2-klein", tokenizer), "tiny", t5_length=15)


def test_the_rows_in_the_place_of_a_t5_that_is_not_there(tokenizer):
    """Zeros, as many as are asked for; of the embedded base `type` one, which costs least."""
    for length in (1, 7):
        model = from_pipeline(tiny_sd3(tokenizer, t5=False), "tiny", t5_length=length)
        tokens, clip = model.encode(["a church"])["tokens"], model.pipeline.tokenizer_max_length
        assert tokens.shape[1] == clip + length
        assert not tokens[:, clip:].any()
    with pytest.raises(ValueError, match="cannot read 0 tokens: give 1 to 512"):
        from_pipeline(tiny_sd3(tokenizer, t5=False), "tiny", t5_length=0)

    own, many = load_base("type", device="cpu"), load_base("type", device="cpu", t5_length=5)
    clip = own.pipeline.tokenizer_max_length
    assert own.encode(["Lobster"])["tokens"].shape[1] == clip + 1
    assert many.encode(["Lobster"])["tokens"].shape[1] == clip + 5


def test_a_tokenizer_that_pads_before_the_prompt(tokenizer):
    pipeline = made("flux2-klein", tokenizer)
    pipeline.tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match="pads before the prompt is not supported"):
        from_pipeline(pipeline, "tiny")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(sd_folder, dtype):
    assert load_base(sd_folder, device="cpu", dtype=dtype).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("source", ["./missing", "missing", "/no/such/folder", "x.safetensors"])
def test_a_base_that_is_not_there(source):
    with pytest.raises(FileNotFoundError, match="no base at|cannot load base"):
        load_base(source)


def test_unknown_dtype():
    allowed = r"dtype 'float8': give one of \['bfloat16', 'float16', 'float32'\]"
    with pytest.raises(ValueError, match=allowed):
        load_base("emoji", dtype="float8")


def test_a_device_that_is_not_there():
    with pytest.raises(DeviceError, match="give cpu, cuda"):
        load_base("emoji", device="gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA; give cpu"):
            load_base("emoji", device="cuda")


def test_a_pickled_checkpoint_is_not_loaded(tmp_path):
    path = tmp_path / "sd.safetensors"
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(WeightsFileError, match="not a safetensors file"):
        load_base(path)


def test_a_family_that_is_not_known(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(ValueError, match="is a WanPipeline, which is not supported"):
        load_base(tmp_path)


def test_flux_2_dev_is_not_known(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Flux2Pipeline"}))
    with pytest.raises(ValueError, match="is a Flux2Pipeline, which is not .*'Flux2KleinPipeline'"):
        load_base(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", "{}", "null"])
def test_a_folder_whose_index_cannot_be_read(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(WeightsFileError, match="cannot be read"):
        load_base(tmp_path)


@pytest.mark.parametrize("silent", [True, False])
def test_a_text_tower_that_lacks_weights_is_not_filled_at_random(tiny, tmp_path, silent):
    folder = tmp_path / "base"
    tiny.pipeline.save_pretrained(folder)
    path = folder / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "fc1.weight" in name)
    weights[f"other.{name}"] = weights.pop(name)
    save_file(weights, path, metadata={"format": "pt"})

    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR if silent else logging.WARNING)
    try:
        with pytest.raises(WeightsFileError, match="lacks weights of a text tower, such as"):
            load_base(str(folder))
    finally:
        logger.setLevel(before)


def test_a_tower_that_reads_both_ways_may_lack_the_head_that_nothing_reads(tiny, tmp_path):
    """BERT's pooler: what is saved without it is loaded with one drawn by chance."""
    own = tiny.pipeline.text_encoder.config
    shape = {"hidden_size": own.hidden_size, "vocab_size": own.vocab_size}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    tower = BertModel(BertConfig(**shape), add_pooling_layer=False).eval()
    parts = {**tiny.pipeline.components, "text_encoder": tower}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path)

    tokens = load_base(str(tmp_path), device="cpu").tokens(["a cat"], "tokens")
    ids = tiny.pipeline.tokenizer(["a cat"], padding="max_length", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(tokens, tower(ids)[0][0])


def test_a_folder_with_damaged_weights(tiny, tmp_path):
    folder = tmp_path / "sd"
    tiny.pipeline.save_pretrained(folder)
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsFileError, match="is damaged, or not complete"):
        load_base(folder, device="cpu")
    shutil.rmtree(folder / "unet")
    with pytest.raises(WeightsFileError, match="not complete"):
        load_base(folder, device="cpu")
