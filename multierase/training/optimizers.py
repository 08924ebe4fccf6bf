"""Adam in float32, or with moments of 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from multierase.errors import UsageError

EIGHT_BITS = "adam8bit"
# By optimiser, how it names its two moments.
MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), EIGHT_BITS: ("state1", "state2")}


def optimizer_class(name: str) -> Callable[[Sequence[dict[str, Any]]], torch.optim.Optimizer]:
    """Return what makes an optimiser of groups of parameters.

    Raises:
        UsageError: if bitsandbytes is asked for and not installed.
    """
    if name != EIGHT_BITS:
        return torch.optim.Adam
    try:
        from bitsandbytes.optim import Adam8bit
    except ImportError as error:
        raise UsageError(
            "the optimiser adam8bit needs bitsandbytes: pip install 'multierase[adam8bit]', or "
            "take adam"
        ) from error

    return Adam8bit
