"""CLIP: sentences and pictures as points on one sphere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn
from transformers import CLIPModel, CLIPProcessor

from multierase.generate import to_picture


class Clip:
    """Any CLIP of transformers; ``name`` says which, with a digest of its weights."""

    def __init__(self, model: CLIPModel, processor: CLIPProcessor, name: str):
        self.model, self.processor, self.name = model.eval().requires_grad_(False), processor, name

    @classmethod
    def load(cls, source: str, device: str | torch.device = "cpu") -> Clip:
        """From a folder or hub id. Raises ``FileNotFoundError`` where it is not at hand."""
        try:
            model, processor = CLIPModel.from_pretrained(source), CLIPProcessor.from_pretrained(source)
        except OSError as error:
            raise FileNotFoundError(f"no CLIP model at {source!r}, a folder or a hub id: {error}") from error
        return cls(model.to(device), processor, f"CLIP {source}, sha256 {weights_digest(model)}")

    @torch.inference_mode()
    def of_texts(self, sentences: Sequence[str]) -> torch.Tensor:
        """``(n, d)`` of unit length, on the CPU; what a sentence has beyond the model's length is cut off."""
        inputs = self.processor(text=list(sentences), return_tensors="pt", padding=True, truncation=True)
        return _unit(self.model.get_text_features(**inputs.to(self.model.device)))

    @torch.inference_mode()
    def of_pictures(self, images: torch.Tensor) -> torch.Tensor:
        """``(b, d)`` of unit length, on the CPU, of ``(b, 3, h, w)`` pictures in [0, 1], as if read from PNG files."""
        features = []
        for batch in images.split(64):
            inputs = self.processor(images=[to_picture(image) for image in batch], return_tensors="pt")
            features.append(_unit(self.model.get_image_features(inputs["pixel_values"].to(self.model.device))))
        return torch.cat(features)


def weights_digest(model: nn.Module) -> str:
    """Of every weight and buffer: 12 digits of their SHA-256."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _unit(features: torch.Tensor) -> torch.Tensor:
    # Transformers returns the features themselves, or the towers' output with the features pooled.
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    return (features / features.norm(dim=-1, keepdim=True)).float().cpu()
