"""Writes a diffusers pipeline as one file in its family's original layout, to be loaded."""

from safetensors.torch import save_file

from multierase.interop.original import DENOISER, T5, whole_file

__all__ = ["T5", "save_single_file"]

BESIDE_A_TRANSFORMER = ("text_encoders.", "first_stage_model.", "vae.")


def save_single_file(pipeline, path, *, whole=False, without=(), dtype=None):
    """Write a pipeline's weights under the names of the original code.

    Of Stable Diffusion 3 and FLUX the transformer alone, as they are usually published.

    Args:
        whole: write all of it, as ComfyUI does.
        without: what the names begin with that the file lacks.
        dtype: of every number; by default its own.
    """
    alone = hasattr(pipeline, "transformer") and not whole
    left_out = (*without, *BESIDE_A_TRANSFORMER) if alone else tuple(without)
    prefix = DENOISER if alone and type(pipeline).__name__ == "FluxPipeline" else ""
    tensors = {}
    for key, value in whole_file(pipeline).items():
        if not key.startswith(left_out):
            value = value.detach().clone().contiguous()
            tensors[key.removeprefix(prefix)] = value.to(dtype or value.dtype)

    save_file(tensors, path)
