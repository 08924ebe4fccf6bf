"""Erase concepts from text-to-image diffusion models into separate increments.

Increments are composed, and any of them removed again, exactly. The public names are imported when
they are first used, so that ``import multierase`` alone stays quick.
"""

import os
from importlib import import_module

# With two threads MKL's products differ from run to run in the last bits, and a resumed erasure
# would differ from an uninterrupted one. MKL reads this at its first product. It is no slower.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.2.0"

_HOMES = {
    "Composer": "composer",
    "Concept": "prompts.concepts",
    "EraseSettings": "training.settings",
    "Increment": "increments.value",
    "KeepList": "separation.keep_list",
    "Library": "increments.library",
    "Model": "models.model",
    "MultieraseError": "errors",
    "Request": "serving",
    "SamplingSettings": "sampling",
    "Server": "serving",
    "TaggedPrompt": "prompts.lists",
    "Workspace": "workspace",
    "compress": "increments.compression",
    "erase": "methods",
    "erase_several": "methods",
    "export_pipeline": "interop.pipeline",
    "from_pipeline": "models.loading",
    "load_base": "models.loading",
    "load_increment": "increments.format",
    "read_prompts": "prompts.lists",
    "save_increment": "increments.format",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'multierase' has no attribute {name!r}")

    return getattr(import_module(f"multierase.{_HOMES[name]}"), name)
