"""Erase concepts from text-to-image diffusion models into separate increments; compose and restore any set exactly.

The public names are imported when first used, so that ``import multierase`` alone stays quick.
"""

import os
from importlib import import_module

# With two threads MKL's products differ from run to run in the last bits, and a resumed erasure from an uninterrupted
# one; MKL reads this at its first product, so it must stand before any. No slower.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"

_HOMES = {
    "Base": "base",
    "Composer": "composer",
    "Concept": "concepts",
    "EraseSettings": "erase_settings",
    "Increment": "increments",
    "KeepList": "decoupling",
    "Library": "library",
    "SCOPES": "increments",
    "SamplingSettings": "generate",
    "erase": "training",
    "erase_several": "training",
    "export_pipeline": "interop",
    "load_base": "base",
    "load_increment": "library",
    "save_increment": "library",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'multierase' has no attribute {name!r}")
    return getattr(import_module(f"multierase.{_HOMES[name]}"), name)
