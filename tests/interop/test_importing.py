"""A file of every peer's, made here in exactly its layout, gives the increment that is in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import peers_by_hand as peers
import pytest
import torch
from families import tiny_model, tiny_sd
from peers_by_hand import (
    HEADER,
    added,
    factors,
    numbers,
    products,
    random_deltas,
    spm_layers,
    trained,
)
from safetensors.torch import load_file, save_file

from multierase import Composer, Concept, from_pipeline, load_increment, save_increment
from multierase.errors import ModelHeld, UsageError, WeightsFileError
from multierase.interop.importing import import_file
from multierase.interop.naming import Names
from multierase.interop.original import original_tensors
from multierase.interop.sources import SOURCES, ImportSettings

SCOPES = ("esd-x-strict", "esd-x", "esd-u")


def assert_holds(increment, deltas, *, exact=True) -> None:
    """Every parameter that is not zero is there, with these numbers and no others."""
    wanted = {name: delta for name, delta in deltas.items() if delta.any()}
    assert increment.deltas.keys() == wanted.keys()
    for name, delta in wanted.items():
        got = increment.dense(name)
        assert got.dtype == torch.float32
        if exact:
            assert torch.equal(got, delta), name
        else:
            torch.testing.assert_close(got, delta, atol=1e-6, rtol=1e-4)


def step_of(increment) -> dict:
    (step,) = increment.history
    assert step["step"] == "imported"
    return dict(step)


# Whole weights.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("scope", SCOPES)
def test_esd_of_today(tiny, tmp_path, scope, dtype):
    deltas = random_deltas(tiny, scope)
    weights = trained(tiny, deltas, dtype)
    increment = import_file(tiny, peers.esd(weights, tmp_path / "esd-x"), "Noto")
    assert_holds(increment, added(tiny, weights))

    made, step = increment.provenance, step_of(increment)
    assert (made.method, made.scope, made.settings["kind"]) == ("unknown", scope, "none")
    assert step["dtype"] == str(dtype).removeprefix("torch.")
    assert (step["file"], step["concepts"], step["separable"]) == ("esd-x", ["Noto"], True)
    assert ("ESD and UCE" in step["from"]) is (scope == "esd-x-strict")
    assert set(increment.readers) == set(increment.deltas) & set(tiny.readers)
    assert increment.grams["tokens"].shape[0] == tiny.tokens([""]).shape[1]


def test_what_was_not_trained_is_exactly_zero_in_any_precision(tiny, tmp_path):
    """A base's rounding is no part of a difference; on the raw base it would be all of it."""
    zeros = {name: torch.zeros(()) for name in tiny.scope_parameters("esd-x")}
    moved = tiny.scope_parameters("esd-x-strict")[0]
    weights = trained(tiny, zeros | {moved: torch.tensor(0.5)}, torch.bfloat16)
    increment = import_file(tiny, peers.esd(weights, tmp_path / "esd"), "Noto")
    assert set(increment.deltas) == {moved}
    assert (increment.provenance.scope, step_of(increment)["unchanged"]) == (
        "esd-x",
        len(zeros) - 1,
    )

    path = peers.esd(trained(tiny, zeros, torch.bfloat16), tmp_path / "same")
    with pytest.raises(WeightsFileError, match="same: its weights are the base's own"):
        import_file(tiny, path, "Noto")


def test_a_base_in_half_precision_is_compared_in_its_own(tiny, tmp_path):
    weights = trained(tiny, random_deltas(tiny, "esd-x-strict"))
    path = peers.esd(
        weights | trained(tiny, {"unet.conv_in.bias": torch.zeros(())}), tmp_path / "x"
    )
    for module in tiny.components.values():
        module.half()
    increment = import_file(tiny, path, "Noto")
    assert set(increment.deltas) == set(tiny.scope_parameters("esd-x-strict"))
    assert step_of(increment)["dtype"] == "float16"


def test_esds_own_header(tiny, tmp_path):
    weights = trained(tiny, random_deltas(tiny, "esd-x"), torch.bfloat16)
    increment = import_file(tiny, peers.esd(weights, tmp_path / "esd", HEADER), "Noto")
    assert_holds(increment, added(tiny, weights))
    made = increment.provenance
    assert made.method == "esd"
    assert {key: made.settings[key] for key in HEADER} == HEADER
    assert step_of(increment)["from"] == "ESD's weights, erasing-esd-v2"


def test_a_header_that_names_another_concept_is_warned_of(tiny, tmp_path, caplog):
    weights = trained(tiny, random_deltas(tiny, "esd-x"))
    path = peers.esd(weights, tmp_path / "esd", HEADER)
    with caplog.at_level(logging.WARNING):
        import_file(tiny, path, "Twemoji")
    assert "says that it erases ['noto']" in caplog.text


def test_esds_other_implementation(tiny, tmp_path):
    weights = trained(tiny, random_deltas(tiny, "esd-x"))
    increment = import_file(tiny, peers.esd_by_layer(weights, tmp_path / "esd.pt"), "Noto")
    assert_holds(increment, added(tiny, weights))
    assert (increment.provenance.method, increment.provenance.scope) == ("esd", "esd-x")


def test_whole_state_dicts_of_2023(tiny, tmp_path):
    """ESD's, UCE's, RECE's: everything is stored, and what was trained is found."""
    weights = trained(tiny, random_deltas(tiny, "esd-x-strict"))
    torch.save(peers.state_dict(tiny, weights), tmp_path / "diffusers-nudity.pt")
    increment = import_file(tiny, tmp_path / "diffusers-nudity.pt", "nudity")
    assert_holds(increment, added(tiny, weights))
    step = step_of(increment)
    assert increment.provenance.scope == "esd-x-strict"
    assert step["unchanged"] == len(tiny.parameters()) - len(weights)
    assert "RECE" in step["from"]


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_whole_checkpoints_under_original_names(tokenizer, tmp_path, version, wrapped):
    """SepME's and ESD's of 2023; UnlearnCanvas wraps them."""

    model = from_pipeline(tiny_sd(tokenizer, version=version), "tiny")
    weights = trained(model, random_deltas(model, "esd-x-strict"))
    state = peers.checkpoint(model, weights)
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "x.pt")
    increment = import_file(model, tmp_path / "x.pt", "Noto")
    assert_holds(increment, added(model, weights))
    counts = step_of(increment)["left_out"]
    assert counts["text encoder"]["changed"] == counts["vae"]["changed"] == 0
    assert counts["text encoder"]["same"] > 10
    assert counts["text encoder"]["not compared"] == 1


def test_sepmes_converted_checkpoint_is_told_by_its_names(tiny, tmp_path):
    """At the same path, after its conversion, are diffusers' names."""
    weights = trained(tiny, random_deltas(tiny, "esd-x-strict"))
    for state in (peers.checkpoint(tiny, weights), peers.state_dict(tiny, weights)):
        torch.save(state, tmp_path / "train-sepme-1.pt")
        assert_holds(import_file(tiny, tmp_path / "train-sepme-1.pt", "x"), added(tiny, weights))


def test_another_text_encoder_is_refused_and_another_vae_is_told(tiny, tmp_path):
    weights = trained(tiny, random_deltas(tiny, "esd-x-strict"))
    state = peers.checkpoint(tiny, weights)
    vae = next(key for key in state if key.startswith("first_stage_model."))
    torch.save(state | {vae: state[vae] + 1}, tmp_path / "x.pt")
    increment = import_file(tiny, tmp_path / "x.pt", "Noto")
    assert step_of(increment)["left_out"]["vae"]["changed"] == 1

    text = next(key for key in state if "mlp.fc1.weight" in key)
    torch.save(state | {text: state[text] + 1}, tmp_path / "x.pt")
    with pytest.raises(WeightsFileError, match="changes the text encoder too, in 1 tensors"):
        import_file(tiny, tmp_path / "x.pt", "Noto")


@pytest.mark.parametrize("which", [("to_v",), ("to_k",), ("to_k", "to_v")], ids=str)
def test_speed(tiny, tmp_path, which):
    deltas = random_deltas(tiny, "esd-x-strict")
    deltas = {n: d for n, d in deltas.items() if n.removesuffix(".weight").endswith(which)}
    weights = trained(tiny, deltas)
    path = peers.pickled(weights, tmp_path / "12-30-Snoopy_1-to_null.pt")
    increment = import_file(tiny, path, "Snoopy")
    assert_holds(increment, added(tiny, weights))
    assert "as SPEED" in step_of(increment)["from"]


@pytest.mark.parametrize("scope", SCOPES)
def test_concept_ablation_and_cuig(tiny, tmp_path, scope):
    weights = trained(tiny, random_deltas(tiny, scope))
    path = tmp_path / "delta.bin"
    torch.save({"unet": {peers.bare(n): w for n, w in weights.items()}}, path)
    increment = import_file(tiny, path, "Noto")
    assert_holds(increment, added(tiny, weights))
    assert "under the name of a delta" in step_of(increment)["from"]

    assert_holds(import_file(tiny, peers.pickled(weights, path), "Noto"), added(tiny, weights))


def test_concept_ablation_under_original_names(tiny, tmp_path):
    weights = trained(tiny, random_deltas(tiny, "esd-x-strict"))
    state = peers.original_attention(tiny, weights)
    torch.save({"state_dict": state}, tmp_path / "delta_epoch.ckpt")
    increment = import_file(tiny, tmp_path / "delta_epoch.ckpt", "Noto")
    assert_holds(increment, added(tiny, weights))
    assert "Concept Ablation" in step_of(increment)["from"]

    torch.save({"state_dict": {**state, "embed": numbers(2, 32)}}, tmp_path / "with embeddings")
    with pytest.raises(WeightsFileError, match="changes the text encoder too"):
        import_file(tiny, tmp_path / "with embeddings", "Noto")


def test_concept_ablation_with_the_bases_own_text_encoder(tiny, tmp_path):
    weights = trained(tiny, random_deltas(tiny, "esd-x-strict"))
    text = tiny.pipeline.text_encoder.state_dict()
    value = {"unet": {peers.bare(n): w for n, w in weights.items()}, "text_encoder": text}
    torch.save(value, tmp_path / "delta.bin")
    increment = import_file(tiny, tmp_path / "delta.bin", "Noto")
    assert_holds(increment, added(tiny, weights))
    assert step_of(increment)["left_out"] == {
        "text encoder": {"same": len(text), "changed": 0, "not compared": 0}
    }

    del value["unet"]
    torch.save({"unet": {}, **value}, tmp_path / "delta.bin")
    with pytest.raises(WeightsFileError, match="no format that is known|nothing of a denoiser"):
        import_file(tiny, tmp_path / "delta.bin", "Noto")


def test_a_pipelines_folder(tiny, tmp_path):
    weights = trained(tiny, random_deltas(tiny, "esd-u"))
    with tiny.holding(weights):
        before = tiny.pipeline.unet.state_dict()
        state = {name: value.clone() for name, value in before.items()}
    tiny.pipeline.save_pretrained(tmp_path / "LoRA_fusion_model")
    part = tmp_path / "LoRA_fusion_model" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(state | {peers.bare(n): w for n, w in weights.items()}, part)
    for path in (tmp_path / "LoRA_fusion_model", part.parent):
        increment = import_file(tiny, path, "Noto")
        assert_holds(increment, added(tiny, weights))
        assert increment.provenance.scope == "esd-u"

    tiny.pipeline.text_encoder.eval()
    tower = tmp_path / "LoRA_fusion_model" / "text_encoder" / "model.safetensors"
    text = load_file(tower)
    name = next(name for name in text if name.endswith("fc1.weight"))
    save_file(text | {name: text[name] + 1}, tower, {"format": "pt"})
    with pytest.raises(WeightsFileError, match="changes the text encoder"):
        import_file(tiny, tmp_path / "LoRA_fusion_model", "Noto")


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "flux2-klein"])
def test_every_family_under_both_kinds_of_names(tokenizer, tmp_path, family):
    model = tiny_model(family, tokenizer)
    ((component, denoiser),) = model.components.items()
    deltas = random_deltas(model, "esd-x" if family != "flux2-klein" else "text-input")
    # In FLUX's original layers queries, keys and values stand side by side.
    weights = trained(model, deltas)
    own = {name.removeprefix(f"{component}."): w for name, w in weights.items()}
    save_file(own, tmp_path / "diffusers")
    assert_holds(import_file(model, tmp_path / "diffusers", "Noto"), added(model, weights))

    state = {**denoiser.state_dict(), **own}
    save_file(original_tensors(denoiser, state), tmp_path / "original")
    assert_holds(import_file(model, tmp_path / "original", "Noto"), added(model, weights))


# Low-rank files.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_spm(tiny, tmp_path, dtype):
    """All twelve layers of a block, convolutions among them; alpha over rank scales them."""
    found = factors(tiny, spm_layers(tiny), 2)
    found = {name: (up.to(dtype), down.to(dtype)) for name, (up, down) in found.items()}
    header = {"prompts": "Noto", "rank": "2", "alpha": "1.0"}
    path = peers.kohya(found, tmp_path / "Noto_last.safetensors", alpha=1.0, metadata=header)
    increment = import_file(tiny, path, "Noto")
    assert_holds(increment, products(found, 0.5), exact=False)
    assert len(found) == 12 * sum(name.endswith("proj_in.weight") for name in found)
    step = step_of(increment)
    assert (step["from"], step["dtype"]) == ("SPM's low-rank file", str(dtype)[6:])
    assert increment.provenance.settings["prompts"] == "Noto"


def test_spms_set_is_warned_of(tiny, tmp_path, caplog):
    found = factors(tiny, tiny.scope_parameters("esd-x-strict"), 1)
    header = {"prompts": "Noto,Van Gogh", "rank": "1", "alpha": "1"}
    path = peers.kohya(found, tmp_path / "spm", alpha=1.0, metadata=header)
    with caplog.at_level(logging.WARNING):
        import_file(tiny, path, "Noto")
    assert "says that it erases ['van gogh']" in caplog.text


def test_leco_without_a_header(tiny, tmp_path):
    found = factors(tiny, spm_layers(tiny), 4)
    increment = import_file(tiny, peers.kohya(found, tmp_path / "noto_500steps", alpha=1.0), "Noto")
    assert_holds(increment, products(found, 0.25), exact=False)
    assert "LECO" in step_of(increment)["from"]


def test_kohyas_sdxl_has_original_names(tokenizer, tmp_path):
    model = tiny_model("sdxl", tokenizer)
    names = model.scope_parameters("esd-x-strict")
    found = factors(model, names, 2)
    by_own = {place.parameters[0]: theirs for theirs, place in Names(model).original.items()}
    text = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 1),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 4),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0),
    }
    header = {"ss_network_module": "networks.lora"}
    options = {"name_of": by_own.__getitem__, "alpha": 2.0, "metadata": header}
    path = peers.kohya(found, tmp_path / "kohya", more=text, **options)
    increment = import_file(model, path, "Noto")
    assert_holds(increment, products(found), exact=False)
    assert "networks.lora" in step_of(increment)["from"]
    assert (
        step_of(increment)["left_out"]["text encoder"]
        == {
            "same": 2,
            "changed": 0,
            "not compared": 0,
        }
        or step_of(increment)["left_out"]["text encoder"]["changed"] == 0
    )

    up = next(iter(text))
    path = peers.kohya(found, tmp_path / "kohya", more=text | {up: torch.ones(4, 1)}, **options)
    with pytest.raises(WeightsFileError, match="changes the text encoder too"):
        import_file(model, path, "Noto")


def test_kohyas_flux_stacks_queries_keys_and_values(tokenizer, tmp_path):
    model = tiny_model("flux", tokenizer)
    place = Names(model).original["double_blocks.0.txt_attn.qkv.weight"]
    rows, size = Names(model).shape_of(place)
    up, down = numbers(rows, 2), numbers(2, size, seed=1)
    layer = "lora_unet_double_blocks_0_txt_attn_qkv"
    save_file({f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}, tmp_path / "x")
    increment = import_file(model, tmp_path / "x", "Noto")
    parts = (up @ down).split(rows // 3)
    assert_holds(increment, dict(zip(place.parameters, parts, strict=True)), exact=False)


def test_comfys_dense_differences(tiny, tmp_path):
    deltas = random_deltas(tiny, "esd-x")
    tensors = {}
    for name, delta in deltas.items():
        layer, _, leaf = peers.bare(name).rpartition(".")
        end = "diff" if leaf == "weight" else "diff_b"
        tensors[f"lora_unet_{layer.replace('.', '_')}.{end}"] = delta
    save_file(tensors, tmp_path / "diff")
    increment = import_file(tiny, tmp_path / "diff", "Noto")
    assert_holds(increment, deltas)
    assert "ComfyUI" in step_of(increment)["from"]
    assert increment.provenance.scope == "esd-x"


OLD = [("lora.up", "lora.down"), ("lora_B", "lora_A"), ("lora_up", "lora_down")]


@pytest.mark.parametrize("ends", OLD, ids=str)
def test_diffusers_loras(tiny, tmp_path, ends):
    found = factors(tiny, tiny.scope_parameters("esd-x-strict"), 2)
    path = peers.diffusers_lora(found, tmp_path / "pytorch_lora_weights.safetensors", ends)
    assert_holds(import_file(tiny, path, "Noto"), products(found), exact=False)


def test_diffusers_own_header_scales(tiny, tmp_path):
    found = factors(tiny, tiny.scope_parameters("esd-x-strict"), 2)
    config = {"unet.lora_alpha": 8, "unet.r": 2, "unet.peft_type": "LORA"}
    path = peers.diffusers_lora(found, tmp_path / "x", lora_adapter_metadata=json.dumps(config))
    increment = import_file(tiny, path, "Noto")
    assert_holds(increment, products(found, 4.0), exact=False)
    assert increment.provenance.settings["lora_alpha"] == 8


def test_peft_itself_writes_what_is_read(tiny, tmp_path):
    """PEFT makes the adapter, diffusers saves it, and PEFT's own merging says what it adds."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2,
        lora_alpha=6,
        init_lora_weights=False,
        target_modules=["to_k", "to_out.0", "proj_in"],
        alpha_pattern={"attn2.to_k": 4},
    )
    unet = tiny.pipeline.unet
    before = {name: value.clone() for name, value in tiny.parameters().items()}
    unet.add_adapter(config)
    state = peft.get_peft_model_state_dict(unet)
    metadata = {"unet_lora_adapter_metadata": config.to_dict()}
    tiny.pipeline.save_lora_weights(tmp_path, unet_lora_layers=state, **metadata)
    unet.fuse_lora()
    unet.unload_lora()
    merged = {name: value - before[name] for name, value in tiny.parameters().items()}
    for name, value in tiny.parameters().items():
        value.copy_(before[name])

    increment = import_file(tiny, tmp_path, "Noto")
    assert_holds(increment, merged, exact=False)


@pytest.mark.parametrize(
    ("config", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5), ({"lora_alpha": 1}, 0.5)]
)
def test_pefts_folder(tiny, tmp_path, config, scale):
    found = factors(tiny, tiny.scope_parameters("esd-x-strict"), 2)
    folder = peers.peft_folder(found, tmp_path / "adapter", **config)
    increment = import_file(tiny, folder, "Noto")
    assert_holds(increment, products(found, scale), exact=False)
    assert step_of(increment)["from"] == "PEFT's low-rank folder"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"use_dora": True}, "use_dora True"),
        ({"peft_type": "LOHA"}, "of the kind 'LOHA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's own weights too"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "is no layer's name"),
    ],
)
def test_what_pefts_folder_may_not_have(tiny, tmp_path, config, told):
    found = factors(tiny, tiny.scope_parameters("esd-x-strict"), 2)
    with pytest.raises(WeightsFileError, match=told.replace("(", r"\(")):
        import_file(tiny, peers.peft_folder(found, tmp_path / "adapter", **config), "Noto")


def test_mace_is_relative_to_its_refined_model(tiny, tmp_path):
    refining = random_deltas(tiny, "esd-x-strict")
    names = [n for n in tiny.parameters() if ".attn" in n and n.endswith("weight")]
    names = [n for n in names if "norm" not in n]
    found = factors(tiny, names, 1)
    path = peers.mace(found, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(WeightsFileError, match="--refined FOLDER"):
        import_file(tiny, path, "Noto")

    refined = trained(tiny, refining)
    with tiny.holding({name: torch.nn.Parameter(w, False) for name, w in refined.items()}):
        tiny.pipeline.save_pretrained(tmp_path / "CFR")
    increment = import_file(tiny, path, "Noto", ImportSettings(refined=str(tmp_path / "CFR")))
    moved = {n: pair for n, pair in found.items() if n in tiny.readers}
    base, wanted = added(tiny, refined), products(moved)
    assert_holds(increment, {name: base[name] + wanted[name] for name in base}, exact=False)
    step = step_of(increment)
    assert (step["separable"], step["refined"]) == (False, "CFR")

    tiny.pipeline.save_pretrained(tmp_path / "base")  # trained on the base itself
    increment = import_file(tiny, path, "Noto", ImportSettings(refined=str(tmp_path / "base")))
    assert_holds(increment, wanted, exact=False)


def test_old_processors_that_are_not_maces_are_the_bases_own(tiny, tmp_path):
    names = [n for n in tiny.parameters() if ".attn2.to_" in n and n.endswith("weight")]
    found = factors(tiny, names, 2)
    tensors = {}
    for name, (up, down) in found.items():
        block, _, layer = peers.bare(name).removesuffix(".weight").rpartition(".to_")
        key = f"unet.{block}.processor.to_{layer.removesuffix('.0')}_lora"
        tensors |= {f"{key}.up.weight": up, f"{key}.down.weight": down}
    save_file(tensors, tmp_path / "old")
    assert_holds(import_file(tiny, tmp_path / "old", "Noto"), products(found), exact=False)


# What is wrong.


def test_a_file_of_another_architecture(tiny, tokenizer, tmp_path):
    other = tiny_model("sd3", tokenizer)
    weights = trained(other, random_deltas(other, "esd-x"))
    path = peers.esd(weights, tmp_path / "sd3")
    with pytest.raises(WeightsFileError) as error:
        import_file(tiny, path, "Noto")
    told = str(error.value)
    assert str(path) in told
    assert "are no layer's of 'tiny' (of the family 'stable-diffusion')" in told
    assert "transformer_blocks.0" in told


def test_a_file_of_another_size(tiny, tokenizer, tmp_path):
    name = tiny.scope_parameters("esd-x-strict")[0]
    path = peers.esd({name: numbers(8, 8)}, tmp_path / "x")
    with pytest.raises(
        WeightsFileError, match=r"has shape \(8, 8\), and this base's has \(32, 32\)"
    ):
        import_file(tiny, path, "Noto")

    found = {name: (numbers(8, 1), numbers(1, 8))}
    with pytest.raises(WeightsFileError, match="was made for another model"):
        import_file(tiny, peers.kohya(found, tmp_path / "x"), "Noto")


def test_a_lora_of_other_layers(tiny, tmp_path):
    pair = numbers(8, 1), numbers(1, 8)
    path = peers.kohya({"unet.no.such.layer.weight": pair}, tmp_path / "x")
    with pytest.raises(WeightsFileError, match="'lora_unet_no_such_layer'"):
        import_file(tiny, path, "Noto")


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (["lora_up.weight"], "one factor without the other"),
        (["lora_up.weight", "lora_down.weight", "lora_mid.weight"], "no part of a low-rank file"),
        (["lora_up.weight", "lora_down.weight", "diff"], "one factor without the other"),
    ],
)
def test_factors_that_do_not_belong_together(tiny, tmp_path, ends, told):
    layer = "lora_unet_" + Names(tiny).flat(tiny.scope_parameters("esd-x-strict")[0])
    shapes = {"lora_up.weight": (32, 1), "lora_down.weight": (1, 32), "diff": (32, 32)}
    save_file({f"{layer}.{end}": torch.ones(shapes.get(end, (1,))) for end in ends}, tmp_path / "x")
    with pytest.raises(WeightsFileError, match=told):
        import_file(tiny, tmp_path / "x", "Noto")


def test_numbers_that_are_not_finite(tiny, tmp_path):
    name = tiny.scope_parameters("esd-x-strict")[0]
    weights = trained(tiny, {name: torch.tensor(torch.nan)})
    with pytest.raises(WeightsFileError, match="not finite"):
        import_file(tiny, peers.esd(weights, tmp_path / "x"), "Noto")


def test_a_tensor_that_claims_to_be_huge(tiny, tmp_path):
    """A pickle of a few bytes may state any shape."""
    name = tiny.scope_parameters("esd-x-strict")[0]
    huge = torch.zeros(1).expand(10**6, 10**6)
    torch.save({peers.bare(name): huge}, tmp_path / "x.pt")
    with pytest.raises(WeightsFileError, match="stores fewer numbers"):
        import_file(tiny, tmp_path / "x.pt", "Noto")


STRANGE = {
    "scalar": torch.tensor(1.0),
    "empty": torch.zeros(0, 0),
    "whole numbers": torch.ones(32, 32, dtype=torch.int64),
    "truth values": torch.ones(32, 32, dtype=torch.bool),
    "complex": torch.ones(32, 32, dtype=torch.complex64),
    "sparse": torch.eye(32).to_sparse(),
    "nowhere": torch.ones(32, 32, device="meta"),
    "many sides": torch.ones(*[1] * 9),
    "infinite": torch.full((32, 32), torch.inf),
}
ENDINGS = ("weight", "lora_up.weight", "lora_down.weight", "alpha", "diff", "diff_b")


@pytest.mark.parametrize("name", STRANGE)
def test_strange_tensors_are_an_error_in_every_place(tiny, tmp_path, name):
    """Nothing but a ``WeightsFileError``, whatever stands where weights and factors are."""
    path, parameter = tmp_path / "x.pt", tiny.scope_parameters("esd-x-strict")[0]
    whole = {"weight": torch.ones(32, 32), "up": torch.ones(32, 1), "down": torch.ones(1, 32)}
    flat, dotted = (
        f"lora_unet_{Names(tiny).flat(parameter)}",
        peers.bare(parameter)[: -len(".weight")],
    )
    sound = {"lora_up.weight": whole["up"], "lora_down.weight": whole["down"]}
    for ending in ENDINGS:
        for layer in (flat, dotted, f"{dotted}.processor"):
            tensors = {f"{layer}.{end}": tensor for end, tensor in sound.items()}
            torch.save(tensors | {f"{layer}.{ending}": STRANGE[name]}, path)
            if (name, ending) in (("scalar", "alpha"), ("many sides", "alpha")):
                continue
            with pytest.raises(WeightsFileError):
                import_file(tiny, path, "Noto")


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": "x"},
        {"lora_alpha": [1]},
        {"lora_alpha": float("nan")},
        {"alpha_pattern": {"attn2.to_k": "x"}},
        {"peft_type": 3},
        {"init_lora_weights": "olora"},
    ],
    ids=str,
)
def test_strange_configurations_are_an_error(tiny, tmp_path, config):
    found = factors(tiny, tiny.scope_parameters("esd-x-strict"), 2)
    with pytest.raises(WeightsFileError):
        import_file(tiny, peers.peft_folder(found, tmp_path / "adapter", **config), "Noto")


def test_an_own_increment_is_named(tiny, noto, tmp_path):
    path = save_increment(noto, tmp_path / "noto.safetensors")
    with pytest.raises(WeightsFileError, match="copy it into the library"):
        import_file(tiny, path, "Noto")


def test_refined_is_for_low_rank_files(tiny, tmp_path):
    path = peers.esd(trained(tiny, random_deltas(tiny, "esd-x")), tmp_path / "x")
    with pytest.raises(UsageError, match="--refined is for low-rank files"):
        import_file(tiny, path, "Noto", ImportSettings(refined=str(path)))


def test_a_model_with_concepts_erased_is_no_base(tiny, noto, tmp_path):
    path = peers.esd(trained(tiny, random_deltas(tiny, "esd-x")), tmp_path / "x")
    composer = Composer(tiny, {"Noto": noto})
    with composer.erasing("Noto"), pytest.raises(ModelHeld):
        import_file(tiny, path, "Twemoji")


def test_weights_of_another_base_are_warned_of(tiny, tmp_path, caplog):
    weights = trained(tiny, random_deltas(tiny, "esd-x-strict"))
    path = peers.esd({n: numbers(*w.shape, scale=1.0) for n, w in weights.items()}, tmp_path / "x")
    with caplog.at_level(logging.WARNING):
        import_file(tiny, path, "Noto")
    assert "was it made for 'tiny'?" in caplog.text


# What becomes of it.


def test_it_is_saved_and_read_as_it_was(tiny, tmp_path):
    found = factors(tiny, spm_layers(tiny), 2)
    increment = import_file(tiny, peers.kohya(found, tmp_path / "x", alpha=1.0), "Noto")
    path = save_increment(increment, tmp_path / "noto.safetensors")
    assert load_increment(path) == increment


def test_a_set_is_one_increment_of_all_its_concepts(tiny, tmp_path):
    path = peers.esd(trained(tiny, random_deltas(tiny, "esd-x-strict")), tmp_path / "uce")
    whole = import_file(tiny, path, "Noto", ImportSettings(also=("Twemoji", "Firefox")))
    step = step_of(whole)
    assert step["concepts"] == ["Noto", "Twemoji", "Firefox"]
    assert step["separable"] is False
    assert whole.also == ("Twemoji", "Firefox")
    assert whole.provenance.prompts == ("Noto", "Twemoji", "Firefox")

    single = [import_file(tiny, path, name) for name in ("Noto", "Twemoji", "Firefox")]
    squares = sum(one.grams["tokens"] @ one.grams["tokens"].T for one in single)
    gram = whole.grams["tokens"] @ whole.grams["tokens"].T
    torch.testing.assert_close(gram, squares, atol=1e-3, rtol=1e-3)
    with pytest.raises(UsageError, match="given twice"):
        import_file(tiny, path, "Noto", ImportSettings(also=("Noto",)))


def test_a_concept_may_have_sentences_of_its_own(tiny, tmp_path):
    path = peers.esd(trained(tiny, random_deltas(tiny, "esd-x-strict")), tmp_path / "x")
    concept = Concept("Noto", ("a cat by Noto",), ("a cat",))
    assert import_file(tiny, path, concept).provenance.prompts == ("a cat by Noto",)


def test_the_page_lists_what_is_read():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    for source in SOURCES.values():
        assert f"| {source.about} | {source.writers} | {source.known_by} |" in page


def test_every_source_has_a_module():
    for name in SOURCES:
        module = __import__(f"multierase.interop.sources.{name}", fromlist=["read"])
        assert callable(module.matches)
        assert callable(module.read)
