"""An experiment: which model, which way to erase, and who judges it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from multierase.errors import UsageError, suggest
from multierase.evaluation.attacks import BudgetName, attack_named
from multierase.prompts.lists import TaggedPrompt

Method = Literal[
    "increments",
    "negative-prompt",
    "sld-weak",
    "sld-medium",
    "sld-strong",
    "sld-max",
    "uce",
    "peer",
]
METHODS: tuple[str, ...] = get_args(Method)
CHANGING = ("increments", "uce", "peer")  # those that change weights
Backbone = Literal["alex", "vgg", "squeeze"]
Options = Mapping[str, str | float]


@dataclass(frozen=True)
class Experiment:
    """An evaluation, as plain values, so that a worker process can rebuild it.

    Args:
        base, base_config, device, dtype, t5_length, resolution, offload: as ``load_base`` takes
            them.
        suite: a shipped suite's name, or a YAML file.
        library: folder of the increments; the other methods need none.
        method: how concepts are erased.
        peer: for the method ``peer``, its pipeline's folder or its denoiser's weights.
        prompts: CSV that replaces the suite's.
        judge: options of the judge that replace the suite's.
        clip: folder or hub id of the CLIP for the CLIP score; replaces the suite's.
        lpips: backbone of LPIPS to the base's pictures, which every process then holds in memory,
            one byte per number.
        fid: file of Inception's weights, for Fréchet distances of its features.
        attack: attacks on each erased concept, by their names in ``ATTACKS``.
        budget: of the attacks.
        attack_cases: how many of a concept's cases are attacked.
        attack_seed: of everything that attacks draw.
        reference: folder of real pictures, or ``.npz`` with their ``mu`` and ``sigma``, for one
            more Fréchet distance.
        solve, keep_weight: as ``Composer`` takes them.
        keep: prompts to keep, beside the base's own.
        inference_steps, guidance_scale: replace the suite's.
        batch_size: pictures at a time.
        thumbnails: how many cases have small pictures stored, of different classes first; replaces
            the suite's.

    Raises:
        UsageError: for an unknown method, or one without the files that it works with; an unknown
            attack or budget, or an attack on a method that it does not fit.
    """

    suite: str
    library: str | None = None
    method: Method = "increments"
    peer: str | None = None
    base: str = "emoji"
    base_config: str | None = None
    device: str | None = None
    dtype: str = "float32"
    t5_length: int | None = None
    resolution: int | None = None
    offload: bool = False
    solve: str | None = None
    keep_weight: float = 3.0
    keep: tuple[TaggedPrompt, ...] = ()
    inference_steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int = 64
    thumbnails: int | None = None
    prompts: str | None = None
    judge: Options = field(default_factory=dict)
    clip: str | None = None
    lpips: Backbone | None = None
    fid: str | None = None
    reference: str | None = None
    attack: tuple[str, ...] = ()
    budget: BudgetName = "quick"
    attack_cases: int = 8
    attack_seed: int = 0

    def __post_init__(self):
        if self.method not in METHODS:
            raise UsageError(
                f"unknown method {self.method!r}{suggest(self.method, METHODS)}; give one of "
                f"{sorted(METHODS)}"
            )
        if (self.method == "peer") != (self.peer is not None):
            raise UsageError(
                "a peer's folder or file goes with the method 'peer', and only with it"
            )

        backbones = get_args(Backbone)
        if self.lpips is not None and self.lpips not in backbones:
            raise UsageError(
                f"unknown LPIPS backbone {self.lpips!r}{suggest(self.lpips, backbones)}; give one "
                f"of {sorted(backbones)}"
            )
        if self.thumbnails is not None and self.thumbnails < 0:
            raise UsageError(f"{self.thumbnails} thumbnails: give 0 or more")
        self._check_attacks()

    def _check_attacks(self) -> None:
        object.__setattr__(self, "attack", tuple(self.attack))
        for name in self.attack:
            attack_named(name).budget(self.budget)
        if self.attack_cases < 1:
            raise UsageError(f"{self.attack_cases} cases to attack: give 1 or more")
        if self.attack and self.method not in CHANGING:
            raise UsageError(
                f"attacks ask the model itself, and {self.method!r} changes none of its weights: "
                f"they fit {sorted(CHANGING)}"
            )
