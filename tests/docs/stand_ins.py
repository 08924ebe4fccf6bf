"""Tiny pipelines that take the place of hub ids."""

from families import tiny_flux, tiny_flux2_klein, tiny_sd, tiny_sd3, tiny_sdxl

# By hub id its stand-in: the real classes and layouts, random weights.
STAND_INS = {
    "CompVis/stable-diffusion-v1-4": tiny_sd,
    "stabilityai/stable-diffusion-xl-base-1.0": tiny_sdxl,
    "stabilityai/stable-diffusion-3.5-medium": tiny_sd3,
    "black-forest-labs/FLUX.1-dev": tiny_flux,
    "black-forest-labs/FLUX.2-klein-base-4B": tiny_flux2_klein,
}
