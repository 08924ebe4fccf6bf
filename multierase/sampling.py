"""How pictures are made: settings alone, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingSettings:
    """The settings of making pictures.

    Args:
        inference_steps: denoising steps of the checkpoint's own scheduler.
        guidance_scale: classifier-free guidance; 1 or less is none.
        batch_size: pictures at a time.

    Raises:
        ValueError: for numbers out of range.
    """

    inference_steps: int = 25
    guidance_scale: float = 3.0
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("inference_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"sampling settings: {name} is {getattr(self, name)}, give 1 or more"
                )
        if not math.isfinite(self.guidance_scale):
            raise ValueError(
                f"sampling settings: guidance_scale is {self.guidance_scale}, give a finite number"
            )
