"""The parts of ``scripts/build_base`` that fit here too, loaded by path.

Both folders have a ``train_vae.py`` and others of one name, so theirs are loaded under names of
their own.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "build_base"


def _load(file: str, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]

    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# The others import it by this name.
_renders = _load("renders", "renders")
_vae = _load("train_vae", "build_base_train_vae")
_clip = _load("train_clip", "build_base_train_clip")
_judge = _load("train_judge", "build_base_train_judge")

Checkpoint = _renders.Checkpoint
blurred = _renders.blurred
learning_rate = _renders.learning_rate
seeded = _renders.seeded
set_rate = _renders.set_rate
shift = _renders.shift
shifted = _renders.shifted
training_parser = _renders.training_parser
reconstruction_loss = _vae.reconstruction_loss
learn_tokenizer = _clip.learn_tokenizer
jitter = _judge.jitter
reconstructions = _judge.reconstructions
warped = _judge.warped
