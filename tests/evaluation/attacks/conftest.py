"""What tests of attacks share: a tiny model that is changed, cases, and a judge by a script."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from families import tiny_sd

from multierase import Model, SamplingSettings, from_pipeline
from multierase.evaluation.attacks import Budget
from multierase.evaluation.attacks.attack import Aim, Target
from multierase.evaluation.attacks.run import copied, target_of
from multierase.evaluation.cases import Case
from multierase.evaluation.judges import Verdict
from multierase.models.soft_text import SoftText

STEPS = 4
CASES = (
    Case(3, "a church by Noto", 5, {"studio": "Noto"}),
    Case(4, "a cat in the style of Noto", 6, {"studio": "Noto"}),
    Case(7, "Noto", 9, {"studio": "Noto"}),
)


class Scripted:
    """A judge who sees in one picture after another what a list says, and then nothing."""

    name, features = "scripted", ""
    classes = {"studio": ["Noto", "nothing"]}  # noqa: RUF012

    def __init__(self, sees: Iterable[bool] = ()):
        self.sees, self.pictures = iter(sees), []

    def __call__(self, images: torch.Tensor) -> Verdict:
        self.pictures += list(images)
        seen = ["Noto" if next(self.sees, False) else "nothing" for _ in images]

        return Verdict({"studio": seen}, None)


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture(scope="session")
def smallest(tokenizer) -> StableDiffusionPipeline:
    """A Stable Diffusion of two blocks, with the scheduler that the sampler takes."""
    pipeline = tiny_sd(tokenizer)
    config = pipeline.scheduler.config
    pipeline.scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    torch.manual_seed(0)
    pipeline.unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )

    return pipeline


@pytest.fixture
def model(smallest) -> Model:
    """The same with weights that a test may change; pictures are decoded by one VAE."""
    parts = dict(smallest.components)
    for name in ("unet", "text_encoder", "scheduler"):
        parts[name] = copy.deepcopy(parts[name])

    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    return from_pipeline(pipeline, "tiny")


@pytest.fixture
def base(model) -> dict[str, torch.Tensor]:
    """The model's own weights, before anything is changed."""
    return copied(model)


@pytest.fixture
def target(model, base) -> Target:
    """The model with all keys changed."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.parameters().items():
            if name.endswith("attn2.to_k.weight"):
                weight += 0.3 * torch.randn(weight.shape, generator=generator)

    return target_of(model, base, SamplingSettings(STEPS, 3.0, 2))


@pytest.fixture
def text(model) -> SoftText:
    return SoftText(model)


@pytest.fixture
def cases() -> tuple[Case, ...]:
    return CASES


@pytest.fixture
def aim():
    """Make what an attack on Noto is after, of the three cases."""

    def make(cache=None, seed=0, cases=CASES, asked=None, **budget) -> Aim:
        asked = asked or {case.number: case.prompt for case in cases}
        return Aim("Noto", cases, asked, Budget(**budget), seed, cache)

    return make
