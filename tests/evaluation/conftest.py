"""Small real networks of random weights, saved as transformers saves them."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor


@pytest.fixture(scope="session")
def clip_folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = dict(tower, vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length)
    text |= dict(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
    config = CLIPConfig(text_config=text, vision_config=dict(tower, image_size=32, patch_size=8), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(size=32, crop_size=32), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def admiral() -> Image.Image:
    """A photograph: Grace Hopper in uniform, as matplotlib ships it."""
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as picture:
        return picture.convert("RGB")


@pytest.fixture(scope="session")
def pictures() -> torch.Tensor:
    """Five of noise, of bytes."""
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (5, 3, 64, 64))).float() / 255
