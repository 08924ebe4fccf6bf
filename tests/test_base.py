import pickle

import pytest
import torch
from conftest import tiny_pipeline
from single_file import save_single_file

from multierase.base import Fingerprint, load_base
from multierase.training import erase


def test_emoji_is_an_ordinary_diffusers_folder(emoji):
    from importlib import resources

    from diffusers import StableDiffusionPipeline

    with resources.as_file(resources.files("multierase") / "assets" / "emoji") as folder:
        pipeline = StableDiffusionPipeline.from_pretrained(str(folder), dtype=torch.float32)
        size = sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file())
    assert size < 30e6
    for name, parameter in pipeline.unet.named_parameters():
        assert torch.equal(parameter, dict(emoji.unet.named_parameters())[name])


def test_folders_of_both_versions_load_and_erase(sd_folder, quick):
    base = load_base(sd_folder, device="cpu")
    expected = "v_prediction" if "sd2" in sd_folder.name else "epsilon"
    assert base.pipeline.scheduler.config.prediction_type == expected
    assert erase(base, "Noto", quick).norm() > 0


def test_v_prediction_is_turned_into_noise(sd_folder):
    base = load_base(sd_folder, device="cpu")
    x_t, t, text = torch.randn(2, *base.latent_shape), torch.tensor([100, 900]), base.text(["Noto", "church"])
    output = base.unet(x_t, t, text).sample
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[t].view(-1, 1, 1, 1)
    expected = alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t if "sd2" in sd_folder.name else output
    torch.testing.assert_close(base.predict_noise(x_t, t, text), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(sd_folder, dtype):
    assert load_base(sd_folder, device="cpu", dtype=dtype).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("source", ["./missing", "missing", "/no/such/folder"])
def test_a_base_that_is_not_there(source):
    with pytest.raises(FileNotFoundError, match="no base at|cannot load base"):
        load_base(source)


def test_unknown_dtype():
    with pytest.raises(ValueError, match=r"dtype 'float8': give one of \['bfloat16', 'float16', 'float32'\]"):
        load_base("emoji", dtype="float8")


def test_a_pickled_checkpoint_is_not_loaded(tmp_path):
    path = tmp_path / "sd.safetensors"
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_base(path)


def test_fingerprint_knows_a_cast_from_another_base():
    weight = {"w": torch.randn(320, 768, generator=torch.Generator().manual_seed(0)) * 0.03}
    own = Fingerprint.of("sd", weight)
    for dtype in (torch.float16, torch.bfloat16):
        assert own.differing(Fingerprint.of("sd", {"w": weight["w"].to(dtype)})) == []
    tuned = {"w": weight["w"] + 1e-6}
    assert own.differing(Fingerprint.of("sd", tuned)) == ["w"]  # same dtype: to the bit
    other = {"w": torch.randn(320, 768, generator=torch.Generator().manual_seed(1)).half() * 0.03}
    assert own.differing(Fingerprint.of("sd", other)) == ["w"]


def test_long_prompts_are_cut_with_a_warning(emoji, caplog):
    long = "a picture of a church by Noto and a rocket by Noto and a cat by Noto and a bell by Noto"
    assert emoji.text([long]).shape == (1, 16, 256)
    assert "the tokenizer's limit is 16: ignored" in caplog.text and "bell" in caplog.text


def test_text_embeddings_are_those_of_the_pipeline(emoji):
    expected, negative = emoji.pipeline.encode_prompt("a church by Noto", "cpu", 1, True)
    torch.testing.assert_close(emoji.text(["a church by Noto", ""]), torch.cat([expected, negative]))


def test_a_single_file_is_the_same_base_as_its_folder(tokenizer, tmp_path):
    pipeline = tiny_pipeline(tokenizer)
    pipeline.save_pretrained(tmp_path / "folder")
    save_single_file(pipeline, tmp_path / "sd.safetensors")
    base = load_base(tmp_path / "sd.safetensors", config=str(tmp_path / "folder"), device="cpu")
    for ours, theirs in ((base.unet, pipeline.unet), (base.vae, pipeline.vae)):
        expected = theirs.state_dict()
        for name, value in ours.state_dict().items():
            assert torch.equal(value, expected[name]), name
    embeddings, _ = pipeline.encode_prompt("a church", "cpu", 1, False)
    torch.testing.assert_close(base.text(["a church"]), embeddings)
