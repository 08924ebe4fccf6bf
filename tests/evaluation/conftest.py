"""What tests of the evaluation share: an experiment with its sweep, pictures, a tiny CLIP."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from multierase.evaluation.concept_sets import concept_sets
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes
from multierase.increments.library import Library
from multierase.methods import erase_several
from multierase.training.settings import EraseSettings

SMALL_SUITE = """case_number,prompt,evaluation_seed,studio,subject
0,a church by Noto,0,Noto,church
1,a cat by Twemoji,1,Twemoji,cat
2,a cat by Firefox,2,Firefox,cat
"""
FEW_STEPS = EraseSettings(kind="none", learning_rate=0.1, trajectories=4, sampler_steps=6, steps=12)
TABLES = ("settings", "cases", "stages", "sets", "pictures", "thumbnails")


@pytest.fixture(scope="session")
def clip_folder(tokenizer, tmp_path_factory) -> Path:
    """A tiny CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = dict(
        tower,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    vision = dict(tower, image_size=32, patch_size=8)

    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPProcessor(CLIPImageProcessor(size=32, crop_size=32), tokenizer)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """Grace Hopper in uniform, as matplotlib ships it."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(path) as picture:
        return picture.convert("RGB")


@pytest.fixture(scope="session")
def noise() -> torch.Tensor:
    """Five pictures of noise, in steps of a byte."""
    pixels = np.random.default_rng(1).integers(0, 256, (5, 3, 64, 64))

    return torch.from_numpy(pixels).float() / 255


@pytest.fixture(scope="session")
def experiment(emoji, clip_folder, tmp_path_factory) -> Experiment:
    """Three increments that erase, and a suite of three pictures with their CLIP scores."""
    folder = tmp_path_factory.mktemp("sweep")
    library = Library(folder / "lib", create=True)
    for increment in erase_several(emoji, ["Noto", "Twemoji", "Firefox"], FEW_STEPS):
        library.save(increment)

    (folder / "small.csv").write_text(SMALL_SUITE)
    (folder / "small.yaml").write_text(
        "prompts: small.csv\nlabels: [studio, subject]\njudge: emoji\ninference_steps: 3\n"
    )
    return Experiment(
        library=str(library.folder),
        suite=str(folder / "small.yaml"),
        clip=str(clip_folder),
        device="cpu",
        batch_size=2,
    )


@pytest.fixture(scope="session")
def subsets(experiment):
    """Every subset of the experiment's concepts."""
    return concept_sets("subsets", list(Library(experiment.library)))


@pytest.fixture(scope="session")
def whole_sweep(experiment, subsets, tmp_path_factory) -> Path:
    """The database of every subset's sweep by this process alone."""
    path = tmp_path_factory.mktemp("whole") / "whole.db"
    sweep(experiment, subsets, path, executor=Processes(1)).close()

    return path


@pytest.fixture(scope="session")
def contents():
    """Reads all that is in a database, but the file's own bytes."""

    def read(path):
        connection = sqlite3.connect(path)
        found = {}
        for table in TABLES:
            found[table] = sorted(connection.execute(f"SELECT * FROM {table}"), key=repr)
        connection.close()
        return found

    return read
