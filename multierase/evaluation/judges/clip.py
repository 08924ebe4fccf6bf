"""CLIP: sentences and pictures as points on one sphere, and the zero-shot judge made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import CLIPModel, CLIPProcessor

from multierase.errors import WeightsFileError
from multierase.evaluation.judges import Verdict
from multierase.files import digest_tensors
from multierase.pictures import to_picture

BATCH = 64


class Clip:
    """Any CLIP of transformers; ``name`` says which, with a digest of its weights."""

    def __init__(self, model: CLIPModel, processor: CLIPProcessor, name: str):
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self.name = name

    @classmethod
    def load(cls, source: str, device: str | torch.device = "cpu") -> Clip:
        """Load a folder or hub id.

        Raises:
            FileNotFoundError: if it is not at hand.
            WeightsFileError: for a model that cannot be read, or that brings code of its own.
        """
        try:
            model = CLIPModel.from_pretrained(source)
            processor = CLIPProcessor.from_pretrained(source, trust_remote_code=False)
        except OSError as error:
            raise FileNotFoundError(
                f"no CLIP model at {source!r}, a folder or a hub id: {error}"
            ) from error
        except Exception as error:  # whatever a damaged file raises within transformers
            raise WeightsFileError(f"{source!r} is no CLIP that can be read: {error}") from error

        digest = digest_tensors(model.state_dict(), length=12)
        return cls(model.to(device), processor, f"CLIP {source}, sha256 {digest}")

    @torch.inference_mode()
    def of_texts(self, sentences: Sequence[str]) -> torch.Tensor:
        """Embed sentences: ``(n, d)`` of unit length, on the CPU; a sentence too long is cut."""
        inputs = self.processor(
            text=list(sentences), return_tensors="pt", padding=True, truncation=True
        )

        return _unit(self.model.get_text_features(**inputs.to(self.model.device)))

    @torch.inference_mode()
    def of_pictures(self, images: torch.Tensor) -> torch.Tensor:
        """Embed ``(b, 3, h, w)`` pictures in [0, 1], as if read from PNG files.

        Returns:
            ``(b, d)`` of unit length, on the CPU.
        """
        features = []
        for batch in images.split(BATCH):
            pictures = [to_picture(image) for image in batch]
            pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
            features.append(_unit(self.model.get_image_features(pixels.to(self.model.device))))

        return torch.cat(features)


class ClipJudge:
    """CLIP, zero-shot: of the classes of a kind, the one whose sentence is nearest to the picture.

    Args:
        classes: for each kind of label, what it may be.
        templates: for each kind a sentence with ``{label}``; ``{label}`` alone by default.
    """

    features = "CLIP's picture embedding"

    def __init__(
        self, clip: Clip, classes: Mapping[str, Sequence[str]], templates: Mapping[str, str]
    ):
        self.clip, self.classes, self.name = clip, classes, clip.name
        self._texts = {}
        for kind, labels in classes.items():
            template = templates.get(kind, "{label}")
            self._texts[kind] = clip.of_texts([template.replace("{label}", one) for one in labels])

    def __call__(self, images: torch.Tensor) -> Verdict:
        """Judge ``(b, 3, h, w)`` pictures in [0, 1]."""
        features = self.clip.of_pictures(images)

        seen = {}
        for kind, text in self._texts.items():
            nearest = (features @ text.T).argmax(dim=1).tolist()
            seen[kind] = [self.classes[kind][index] for index in nearest]

        return Verdict(seen, features)


def _unit(features: torch.Tensor) -> torch.Tensor:
    # Transformers returns the features themselves, or the towers' output with the features pooled.
    features = features if isinstance(features, torch.Tensor) else features.pooler_output

    return (features / features.norm(dim=-1, keepdim=True)).float().cpu()
