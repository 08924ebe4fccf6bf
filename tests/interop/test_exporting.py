"""A composed set in every format, read by the tools themselves where they are installed."""

from __future__ import annotations

import base64
import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from compositions import random_increment
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from families import MAKE, tiny_model, tiny_sd
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from multierase import Library, Model, Workspace, from_pipeline, load_base
from multierase.errors import AlreadyThere, UsageError, WriteError
from multierase.interop import exporting
from multierase.interop.metadata import architecture, base_version
from multierase.interop.original import whole_file
from multierase.interop.targets import TARGETS, ExportSettings
from multierase.interop.targets.diffusers import LORA

ERASED = {"dali": 1.0, "van gogh": 0.5}
QUICK = ExportSettings(quick=True)
FAMILIES = ["sd1", "sd2", *MAKE]
UNETS = ["sd1", "sd2", "sdxl"]
CLOSE = {"rtol": 0, "atol": 2e-5}  # of a weight whose change is a product of float32 factors


def model_of(name: str, tokenizer) -> Model:
    if name in MAKE:
        return tiny_model(name, tokenizer)

    return from_pipeline(tiny_sd(tokenizer, version=int(name[-1])), "tiny")


def workspace_of(model: Model, folder: Path, scope: str | None = None) -> Workspace:
    """Erase two concepts, one in factors and one dense."""
    library = Library(folder, create=True)
    for seed, concept in enumerate(ERASED):
        factored = concept == "dali"
        scope_of = scope or model.exact_scope
        library.save(random_increment(model, concept, scope_of, seed, factored=factored))
    workspace = Workspace(library, model, solve="sum")
    workspace.set(ERASED)

    return workspace


@pytest.fixture(params=FAMILIES)
def workspace(request, tokenizer, tmp_path) -> Workspace:
    return workspace_of(model_of(request.param, tokenizer), tmp_path / "lib")


@pytest.fixture(params=UNETS)
def on_unet(request, tokenizer, tmp_path) -> Workspace:
    return workspace_of(model_of(request.param, tokenizer), tmp_path / "lib")


@pytest.fixture
def on_sd1(tokenizer, tmp_path) -> Workspace:
    return workspace_of(model_of("sd1", tokenizer), tmp_path / "lib")


def composed_of(workspace: Workspace) -> dict[str, torch.Tensor]:
    return {name: own.detach().clone() for name, own in workspace.model.parameters().items()}


def base_of(workspace: Workspace) -> DiffusionPipeline:
    """Restore everything, and return the pipeline: the base, for other tools to change."""
    workspace.restore_all()

    return workspace.model.pipeline


def effective(pipeline: DiffusionPipeline, name: str) -> torch.Tensor:
    """Return a weight as a LoRA that PEFT has put beside it makes it."""
    component, _, layer = name.removesuffix(".weight").partition(".")
    module = getattr(pipeline, component).get_submodule(layer)
    weight = module.base_layer.weight.detach().clone()
    for adapter in module.active_adapters:
        weight += module.get_delta_weight(adapter)

    return weight


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def changed_by(workspace: Workspace) -> list[str]:
    return sorted(workspace.model.scope_parameters(workspace.model.exact_scope))


def test_diffusers_loads_the_lora_folder_of_every_family(workspace, tmp_path):
    composed, names = composed_of(workspace), changed_by(workspace)
    report = workspace.export(tmp_path / "lora", "diffusers", QUICK)
    assert report["error"] < 1e-5
    pipeline = base_of(workspace)
    pipeline.load_lora_weights(tmp_path / "lora")
    for name in names:
        torch.testing.assert_close(effective(pipeline, name), composed[name], **CLOSE)


def test_peft_loads_the_same_folder(workspace, tmp_path):
    composed, names = composed_of(workspace), changed_by(workspace)
    workspace.export(tmp_path / "lora", "diffusers", QUICK)
    pipeline = base_of(workspace)
    ((component, denoiser),) = workspace.model.components.items()
    merged = PeftModel.from_pretrained(denoiser, str(tmp_path / "lora")).merge_and_unload()
    assert type(merged) is type(getattr(pipeline, component))
    for name in names:
        weight = merged.get_parameter(name.removeprefix(f"{component}."))
        torch.testing.assert_close(weight.detach(), composed[name], **CLOSE)


def test_diffusers_loads_kohyas_file_of_every_unet(on_unet, tmp_path):
    composed, names = composed_of(on_unet), changed_by(on_unet)
    on_unet.export(tmp_path / "set.safetensors", "kohya", QUICK)
    pipeline = base_of(on_unet)
    pipeline.load_lora_weights(tmp_path / "set.safetensors")
    for name in names:
        torch.testing.assert_close(effective(pipeline, name), composed[name], **CLOSE)


@pytest.mark.parametrize("scope", ["esd-x", "full"])
def test_convolutions_are_low_rank_too_and_vectors_are_left_out(scope, tokenizer, tmp_path, caplog):
    workspace = workspace_of(model_of("sd1", tokenizer), tmp_path / "lib", scope)
    composed = composed_of(workspace)
    with caplog.at_level(logging.WARNING):
        report = workspace.export(tmp_path / "set.safetensors", "kohya", QUICK)
    names = workspace.model.scope_parameters(scope)
    vectors = [name for name in names if composed[name].ndim == 1]
    assert (report["left_out"], "have no rank" in caplog.text) == (len(vectors), True)

    file = load_file(tmp_path / "set.safetensors")
    before = {name: own.detach() for name, own in base_of(workspace).unet.named_parameters()}
    lost = total = 0.0
    for name in names:
        own = before[name.removeprefix("unet.")]
        change = composed[name] - own
        total += change.square().sum().item()
        layer = name.removeprefix("unet.").removesuffix(".weight").replace(".", "_")
        if name in vectors:
            lost += change.square().sum().item()
            continue
        up, down = (file[f"lora_unet_{layer}.lora_{which}.weight"] for which in ("up", "down"))
        assert file[f"lora_unet_{layer}.alpha"] == len(down)
        product = up.flatten(1) @ down.flatten(1)
        torch.testing.assert_close(product.reshape(own.shape), change, **CLOSE)
    assert report["error"] == pytest.approx((lost / total) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_picture_with_the_lora_is_the_composers(scale, on_sd1, tmp_path):
    pipeline = on_sd1.model.pipeline
    on_sd1.export(tmp_path / "lora", "diffusers", QUICK)

    def drawn() -> torch.Tensor:
        noise = torch.Generator().manual_seed(0)
        return pipeline("a church", num_inference_steps=3, generator=noise, output_type="pt").images

    on_sd1.set({name: strength * scale for name, strength in ERASED.items()})
    ours = drawn()
    base_of(on_sd1)
    base = drawn()
    pipeline.load_lora_weights(tmp_path / "lora", adapter_name="erase")
    pipeline.set_adapters("erase", scale)
    torch.testing.assert_close(drawn(), ours, rtol=0, atol=1e-4)
    pipeline.unload_lora_weights()
    assert torch.equal(drawn(), base)
    assert (ours - base).abs().max() > 1e-2


def test_hotswapping_one_set_for_another(on_sd1, tmp_path):
    names = changed_by(on_sd1)
    on_sd1.export(tmp_path / "both", "diffusers", QUICK)
    on_sd1.set({"van gogh": 1.0})
    on_sd1.export(tmp_path / "one", "diffusers", QUICK)
    composed = composed_of(on_sd1)

    pipeline = base_of(on_sd1)
    pipeline.enable_lora_hotswap(target_rank=128)
    pipeline.load_lora_weights(tmp_path / "both", adapter_name="erase")
    pipeline.load_lora_weights(tmp_path / "one", adapter_name="erase", hotswap=True)
    for name in names:
        torch.testing.assert_close(effective(pipeline, name), composed[name], **CLOSE)


def test_the_dense_file_of_a_unet_has_the_composers_bits(on_unet, tmp_path):
    composed = composed_of(on_unet)
    report = on_unet.export(tmp_path / "set.safetensors", "diff", QUICK)
    assert report["error"] == 0
    file = load_file(tmp_path / "set.safetensors")
    unet = base_of(on_unet).unet
    layers = {name.removesuffix(".weight").replace(".", "_"): name for name in unet.state_dict()}
    for key, diff in file.items():
        name = layers[key.removeprefix("lora_unet_").removesuffix(".diff")]
        weight = unet.get_parameter(name).detach() + diff
        torch.testing.assert_close(weight, composed[f"unet.{name}"], rtol=0, atol=1e-7)
    assert len(file) == len(changed_by(on_unet))


@pytest.mark.parametrize("name", ["sd3", "flux", "flux2-klein"])
@pytest.mark.parametrize("scope", ["esd-x", None])
def test_the_dense_file_of_a_transformer_has_original_names(name, scope, tokenizer, tmp_path):
    workspace = workspace_of(model_of(name, tokenizer), tmp_path / "lib", scope)
    workspace.export(tmp_path / "set.safetensors", "diff", QUICK)
    composed = whole_file(workspace.model.pipeline)
    composed = {key: value.clone() for key, value in composed.items()}
    base = whole_file(base_of(workspace))
    file = load_file(tmp_path / "set.safetensors")
    prefix = "" if name == "flux2-klein" else "model."
    for key, diff in file.items():
        layer, _, kind = key.rpartition(".")
        leaf = "bias" if kind == "diff_b" else "weight"
        original = f"{prefix}{layer}.{leaf}" if prefix else f"{layer}.{leaf}".partition(".")[2]
        torch.testing.assert_close(base.pop(original) + diff, composed[original], rtol=0, atol=1e-7)
    assert all(torch.equal(base[key], composed[key]) for key in base)
    assert file


def test_the_denoisers_weights_load_strictly(on_unet, tmp_path):
    workspace = on_unet
    composed = composed_of(workspace)
    for file in ("unet.safetensors", "unet.pt"):
        workspace.export(tmp_path / file, "unet")
    unet = UNet2DConditionModel.from_config(workspace.model.pipeline.unet.config)
    for state in (
        load_file(tmp_path / "unet.safetensors"),
        torch.load(tmp_path / "unet.pt", weights_only=True),
    ):
        unet.load_state_dict(state, strict=True)
        for name, own in unet.named_parameters():
            assert torch.equal(own, composed[f"unet.{name}"]), name


def test_a_single_file_is_the_composed_model(on_unet, tmp_path):
    pipeline = on_unet.model.pipeline
    on_unet.export(tmp_path / "sd.safetensors", "single-file")
    pipeline.save_pretrained(tmp_path / "folder")
    loaded = load_base(tmp_path / "sd.safetensors", config=str(tmp_path / "folder"), device="cpu")
    composed = composed_of(on_unet)
    for name, own in loaded.parameters().items():
        assert torch.equal(own, composed[name]), name
    ours, theirs = (model.encode(["a church"])["tokens"] for model in (on_unet.model, loaded))
    torch.testing.assert_close(theirs, ours)


def test_stable_diffusion_2_has_its_last_block_in_a_single_file(tokenizer):
    pipeline = tiny_sd(tokenizer, version=2)
    pipeline.text_encoder = _tower_of_23_layers(pipeline.text_encoder)
    tensors = whole_file(pipeline)
    block = "cond_stage_model.model.transformer.resblocks."
    assert torch.equal(tensors[f"{block}23.ln_1.weight"], tensors[f"{block}22.ln_1.weight"])
    assert f"{block}24.ln_1.weight" not in tensors
    assert {"text_projection", "logit_scale"} <= {key.rpartition(".")[2] for key in tensors}


def _tower_of_23_layers(tower):
    config = type(tower.config)(**{**tower.config.to_dict(), "num_hidden_layers": 23})

    return type(tower)(config)


def test_a_rank_is_the_best_that_so_many_directions_can_do(on_sd1, tmp_path):
    composed, names = composed_of(on_sd1), changed_by(on_sd1)
    settings = ExportSettings(rank=2, quick=True)
    report = on_sd1.export(tmp_path / "set.safetensors", "kohya", settings)
    unet = base_of(on_sd1).unet
    lost = total = 0.0
    for name in names:
        change = composed[name] - unet.get_parameter(name.removeprefix("unet.")).detach()
        sizes = torch.linalg.svdvals(change.double())
        lost, total = lost + sizes[2:].square().sum(), total + sizes.square().sum()
    assert report["ranks"] == [2, 2]
    assert report["error"] == pytest.approx((lost / total).sqrt().item(), rel=1e-4)
    assert 0.1 < report["error"] < 1


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_files_precision_is_in_its_error(precision, on_sd1, tmp_path):
    settings = ExportSettings(precision=precision, quick=True)
    report = on_sd1.export(tmp_path / "set.safetensors", "diff", settings)
    file = load_file(tmp_path / "set.safetensors")
    assert {str(tensor.dtype) for tensor in file.values()} == {f"torch.{precision}"}
    least = {"float16": 1e-5, "bfloat16": 1e-4}[precision]
    assert least < report["error"] < 50 * least


def test_the_certificate_is_asked_before_and_after(on_sd1, tmp_path):
    asked = [("a church by dali", "a church", "own"), ("a cat", "", "general")]
    questions = [dict(zip(("prompt", "context", "about"), one, strict=True)) for one in asked]
    certificate = {"sentences": 1, "gone": 0.0, "questions": questions}
    own = on_sd1.library["dali"]
    own = replace(own, provenance=replace(own.provenance, certificate=certificate))
    on_sd1.library.save(own, overwrite=True)

    whole = on_sd1.export(tmp_path / "a.safetensors", "kohya")["certificate"]
    assert whole["composed"]["moved"] == pytest.approx(whole["file"]["moved"], rel=1e-3)
    cut = on_sd1.export(tmp_path / "b.safetensors", "kohya", ExportSettings(rank=1))["certificate"]
    assert cut["composed"] == whole["composed"]
    assert cut["file"]["moved"]["general"] != pytest.approx(whole["file"]["moved"]["general"])
    assert cut["file"]["gone"] in (0, 1)


def test_the_header_is_what_interfaces_read(on_unet, tmp_path):
    on_unet.export(tmp_path / "set.safetensors", "kohya", ExportSettings(prompt="a church"))
    said = metadata_of(tmp_path / "set.safetensors")
    model = on_unet.model
    assert said["modelspec.architecture"] == f"{architecture(model)}/lora"
    assert said["modelspec.title"] == "Erase: dali, van gogh (multierase)"
    assert said["modelspec.merged_from"] == "dali, van gogh"
    assert "trigger_phrase" not in str(list(said))
    assert said["ss_base_model_version"] == base_version(model)
    assert said["ss_network_module"] == "networks.lora"
    about = json.loads(said["multierase"])
    assert (about["erased"], about["left_out"]) == (ERASED, 0)
    assert about["error"] < 1e-5
    (cover,) = json.loads(said["ssmd_cover_images"])
    head, _, thumbnail = said["modelspec.thumbnail"].partition(",")
    assert head == "data:image/png;base64"
    for encoded, most in ((cover, 768), (thumbnail, 256)):
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert 200 < max(picture.size) <= most


@pytest.mark.parametrize(
    ("name", "kind", "version"),
    [
        ("sd1", "stable-diffusion-v1", "sd_v1"),
        ("sd2", "stable-diffusion-v2-768-v", "sd_v2"),
        ("sdxl", "stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
        ("sd3", "stable-diffusion-3.5-medium", "sd3"),
        ("flux", "flux-1-dev", "flux1"),
        ("flux2-klein", "flux-2-klein", "flux2_klein"),
    ],
)
def test_a_base_is_called_as_model_managers_call_it(name, kind, version, tokenizer):
    model = model_of(name, tokenizer)
    assert (architecture(model), base_version(model)) == (kind, version)


def test_a_hub_folder_is_a_library_a_lora_and_a_card(workspace, tmp_path):
    composed, names = composed_of(workspace), changed_by(workspace)
    out = tmp_path / "to-upload"
    workspace.export(out, "hub-folder", ExportSettings(prompt="a church", license="mit"))
    assert list(Library(out)) == list(ERASED)
    assert Library(out).problems() == {}
    assert Library(out)["dali"] == workspace.library["dali"]

    front, _, text = (out / "README.md").read_text().removeprefix("---\n").partition("---\n")
    said = yaml.safe_load(front)
    assert (said["base_model"], said["license"]) == ("tiny", "mit")
    assert "# tiny without dali, van gogh" in text
    assert (out / "pictures" / "base-and-erased.png").is_file()
    assert (out / "comfyui" / "erase.safetensors").is_file()

    pipeline = base_of(workspace)
    # As the card says: diffusers looks for a name at the top, where the increments are.
    pipeline.load_lora_weights(out, subfolder="diffusers", weight_name=LORA)
    for name in names:
        torch.testing.assert_close(effective(pipeline, name), composed[name], **CLOSE)


def test_a_base_says_its_licence_in_its_own_card(on_sd1, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: openrail\n---\n# a base\n")
    on_sd1.model.name = str(tmp_path / "base")
    on_sd1.export(tmp_path / "out", "hub-folder", QUICK)
    front = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["license"] == "openrail"


def test_the_model_is_composed_as_it_was(on_sd1, tmp_path):
    composed = composed_of(on_sd1)
    for to in TARGETS:
        suffix = TARGETS[to].suffixes[0] if TARGETS[to].suffixes else ""
        on_sd1.export(tmp_path / f"{to}{suffix}", to, ExportSettings(prompt="a church"))
        assert on_sd1.erased == ERASED
        here = on_sd1.model.parameters()
        assert all(torch.equal(own, composed[name]) for name, own in here.items()), to


def test_a_pipeline_is_plain_diffusers(on_sd1, tmp_path):
    on_sd1.export(tmp_path / "out")
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    composed = composed_of(on_sd1)
    for name, own in loaded.unet.named_parameters():
        assert torch.equal(own, composed[f"unet.{name}"])


BAD = {
    "unknown": ("kohia", "x.safetensors", UsageError, "did you mean 'kohya'"),
    "suffix": ("kohya", "x.ckpt", UsageError, "ends in .safetensors"),
    "folder": ("diffusers", "full", AlreadyThere, "not empty"),
    "there": ("diff", "there.safetensors", AlreadyThere, "exists already"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_clear_error_and_writes_nothing(case, on_sd1, tmp_path):
    to, name, error, message = BAD[case]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    (tmp_path / "there.safetensors").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        on_sd1.export(tmp_path / name, to, QUICK)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.safetensors").read_text() == "precious"


def test_overwriting_has_to_be_asked_for(on_sd1, tmp_path):
    (tmp_path / "x.safetensors").write_text("old")
    on_sd1.export(tmp_path / "x.safetensors", "diff", QUICK, overwrite=True)
    assert load_file(tmp_path / "x.safetensors")


def test_nothing_erased_is_nothing_to_add(on_sd1, tmp_path):
    on_sd1.restore_all()
    with pytest.raises(UsageError, match="nothing is erased"):
        on_sd1.export(tmp_path / "x.safetensors", "kohya", QUICK)


def test_kohyas_names_are_a_unets(tokenizer, tmp_path):
    workspace = workspace_of(model_of("flux", tokenizer), tmp_path / "lib")
    with pytest.raises(UsageError, match="take diffusers"):
        workspace.export(tmp_path / "x.safetensors", "kohya", QUICK)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"precision": "float8"}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ExportSettings(**wrong)


@pytest.mark.parametrize("to", ["kohya", "diffusers", "hub-folder", "unet"])
def test_a_full_disk_leaves_nothing(to, on_sd1, tmp_path, monkeypatch):
    def full(path, tensors, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_container", full)
    suffix = ".safetensors" if TARGETS[to].suffixes else ""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WriteError, match="No space left"):
        on_sd1.export(tmp_path / f"out{suffix}", to, QUICK)
    assert sorted(tmp_path.rglob("*")) == before
