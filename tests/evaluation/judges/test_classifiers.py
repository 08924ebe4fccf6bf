import json
import sys

import numpy as np
import pytest
import torch
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from multierase.errors import MissingExtra, SuiteError, WeightsFileError
from multierase.evaluation.instruments import load_judge
from multierase.evaluation.judges.classifiers import (
    classifier_judge,
    imagenet_classes,
    imagenet_judge,
)
from multierase.evaluation.suites import load_suite


def test_the_thousand_names():
    names = imagenet_classes()
    assert len(names) == 1000 == len({name.lower() for name in names})
    places = {
        "tench": 0,
        "English springer": 217,
        "cassette player": 482,
        "chain saw": 491,
        "church": 497,
        "French horn": 566,
        "garbage truck": 569,
        "gas pump": 571,
        "golf ball": 574,
        "parachute": 701,
        "tabby": 281,
        "zebra": 340,
        "military uniform": 652,
        "toaster": 859,
        "banana": 954,
        "toilet tissue": 999,
    }
    assert {name: names.index(name) for name in places} == places


def test_the_shipped_classifier_recognises_a_photograph(photograph):
    # What testing cuts off is put around it.
    middle = np.asarray(photograph)[44:556]
    square = np.pad(middle, ((36, 37), (36, 37), (0, 0)), mode="reflect")
    judge = imagenet_judge()

    verdict = judge(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255)
    assert verdict.seen == {"class": ["military uniform"]}
    assert verdict.features.shape == (1, 1280)
    # As its file's name has it.
    assert judge.name.startswith("ImageNet by EfficientNet-Lite0, sha256 57934424")
    assert load_judge(load_suite("imagenette")).name == judge.name


@pytest.fixture
def resnet(tmp_path):
    def save(classes, **names):
        torch.manual_seed(classes)
        config = ResNetConfig(
            num_labels=classes,
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            layer_type="basic",
            **names,
        )
        model = ResNetForImageClassification(config).eval()
        folder = tmp_path / f"resnet{classes}"
        model.save_pretrained(folder)
        ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(folder)
        return folder, model

    return save


def test_a_classifier_of_ones_own_for_imagenet(resnet, noise):
    folder, model = resnet(1000)
    judge = load_judge(load_suite("imagenette", judge={"model": str(folder)}))

    processor = ConvNextImageProcessor.from_pretrained(folder)
    inputs = processor(images=list((noise * 255).byte()), return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    names, verdict = imagenet_classes(), judge(noise)
    assert verdict.seen["class"] == [names[i] for i in output.logits.argmax(dim=1)]
    torch.testing.assert_close(verdict.features, output.hidden_states[-1].mean(dim=(2, 3)))

    assert str(folder) in judge.name
    assert "sha256" in judge.name
    with pytest.raises(WeightsFileError, match="has 10 classes, ImageNet has 1000"):
        imagenet_judge(model=str(resnet(10)[0]))


def test_a_classifier_for_each_kind_of_label(resnet, noise, tmp_path):
    style, _ = resnet(2, id2label={0: "Van_Gogh", 1: "Pop_Art"})
    config = ViTConfig(
        num_labels=3,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label={0: "Dogs", 1: "Cats", 2: "Sea"},
    )
    vit = ViTForImageClassification(config).eval()
    vit.save_pretrained(tmp_path / "vit")
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "vit")

    judge = classifier_judge({"style": str(style), "object": str(tmp_path / "vit")})
    assert judge.classes == {"style": ["Van Gogh", "Pop Art"], "object": ["Dogs", "Cats", "Sea"]}
    inputs = processor(images=list((noise * 255).byte()), return_tensors="pt")
    with torch.no_grad():
        best = vit(**inputs).logits.argmax(dim=1).tolist()
    verdict = judge(noise)
    assert verdict.seen["object"] == [judge.classes["object"][i] for i in best]
    assert verdict.features.shape == (5, 16)

    given = {"name": "classifier", "style": str(style), "object": str(tmp_path / "vit")}
    with pytest.raises(SuiteError, match="cannot see style 'Abstractionism'"):
        load_judge(load_suite("unlearncanvas", judge=given))


@pytest.mark.parametrize("where", ["config.json", "preprocessor_config.json"])
def test_a_judges_own_code_is_never_run(resnet, tmp_path, monkeypatch, where):
    """Nor is anybody asked whether it may be: `yes |` would say so."""
    folder, _ = resnet(2)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / where).read_text())
    names = ("AutoConfig", "AutoModelForImageClassification", "AutoImageProcessor")
    own = {"auto_map": dict.fromkeys(names, "own.Own"), "model_type": "own"}
    own |= {"image_processor_type": "OwnImageProcessor"}
    (folder / where).write_text(json.dumps(config | own))
    monkeypatch.setattr("builtins.input", lambda *asked: "y")

    with pytest.raises(WeightsFileError, match="without running code of its own"):
        classifier_judge({"style": str(folder)})
    assert not (tmp_path / "ran").exists()


def test_a_damaged_classifier_is_said(resnet):
    folder, _ = resnet(2)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsFileError, match="is no image classifier that can be read"):
        classifier_judge({"style": str(folder)})


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no image classifier of transformers at '/no/whe"):
        imagenet_judge(model="/no/where")
    with pytest.raises(FileNotFoundError, match=r"no weights .*resnet50\.pth"):
        imagenet_judge(weights=str(tmp_path / "resnet50.pth"))
    with pytest.raises(ValueError, match="both weights 'a' and model 'b'"):
        imagenet_judge(weights="a", model="b")

    (tmp_path / "resnet50.pth").write_bytes(b"none")
    with pytest.raises(WeightsFileError, match=r"resnet50\.pth holds no weights that can be read"):
        imagenet_judge(weights=str(tmp_path / "resnet50.pth"))
    torch.save({}, tmp_path / "resnet50.pth")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingExtra, match="torchvision is not installed"):
        imagenet_judge(weights=str(tmp_path / "resnet50.pth"))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'multierase\[imagenet\]'"):
        imagenet_judge()
