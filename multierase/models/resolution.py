"""The size of a picture that is not the base's own."""

from __future__ import annotations

from typing import Any

from multierase.models.model import Model


def require_resolution(model: Model, resolution: int) -> None:
    """Raise ``ValueError`` for pixels on a side that a model cannot make a picture of."""
    unit = model.scale * model.patch
    denoiser: Any = next(iter(model.components.values()))
    # Stable Diffusion 3 has an embedding for each place of a picture.
    places = denoiser.config.get("pos_embed_max_size")
    most = None if places is None else places * unit

    possible = resolution >= unit and resolution % unit == 0
    if not possible or (most is not None and resolution > most):
        limit = "" if most is None else f", {most} at most"
        raise ValueError(
            f"{model.name} makes no pictures of {resolution} pixels on a side: give a multiple of "
            f"{unit}{limit}"
        )
