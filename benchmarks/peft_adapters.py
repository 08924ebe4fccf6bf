"""PEFT's adapters on keys and values, as ``load_lora_weights`` leaves them: the plain way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def peft_layers(module: nn.Module, count: int, rank: int) -> list[BaseTunerLayer]:
    """Put ``count`` adapters on the keys and values of cross-attention."""
    for index in range(count):
        config = LoraConfig(
            r=rank, lora_alpha=rank, target_modules=r".*attn2\.to_[kv]", init_lora_weights=False
        )
        inject_adapter_in_model(config, module, adapter_name=f"a{index}")

    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def fuse(layers: Sequence[BaseTunerLayer], names: Sequence[str]) -> None:
    for layer in layers:
        layer.merge(adapter_names=list(names))


def unfuse(layers: Sequence[BaseTunerLayer]) -> None:
    for layer in layers:
        layer.unmerge()


def peft_times(
    layers: Sequence[BaseTunerLayer], count: int, timed: Callable[..., list[float]]
) -> dict[str, list[float]]:
    """Time two sets of ``count`` adapters.

    ``set_adapters`` changes what a forward pass adds, which every later pass pays; ``fuse`` writes
    the weights.
    """
    one = [f"a{index}" for index in range(count)]
    other = [f"a{index}" for index in range(count, 2 * count)]

    def activate(names: Sequence[str]) -> None:
        for layer in layers:
            layer.set_adapter(names)

    def switch_to(names: Sequence[str]) -> None:
        unfuse(layers)
        fuse(layers, names)

    fuse(layers, other)
    return {
        "set_adapters": timed(lambda: activate(one), lambda: activate(other)),
        "put on (fuse)": timed(lambda: fuse(layers, one), lambda: unfuse(layers)),
        "switch (unfuse, fuse)": timed(lambda: switch_to(one), lambda: switch_to(other)),
        "take off (unfuse)": timed(lambda: unfuse(layers), lambda: fuse(layers, one)),
    }
