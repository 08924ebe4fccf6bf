"""How long does it take to put increments on, take them off, and switch sets, at Stable Diffusion 1.4's shapes?

    python benchmarks/compose.py --out benchmarks/results/compose.json

Increments of random numbers on the real U-Net's cross-attention: keys and values (24,960 x 768 in all) as factors and
dense, and all of cross-attention (44 million numbers) dense. Beside copying the touched weights once,
``load_state_dict`` and PEFT's adapters (``pip install -e ".[bench]"``), in one process. Then what a thousand cycles
leave behind. Times are medians, and multiples of the copy: absolute ones depend on the machine. Prints one JSON object
on stdout; resumable.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from harness import Results
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

from multierase.base import Fingerprint
from multierase.composer import Composer
from multierase.decoupling import KeepList
from multierase.increments import Factors, Increment, reads_text, touched_parameters

TOKENS = 40  # of a concept's prompts, at the numerical rank
SCALE = 1e-3


def unet_of_cross_attention(dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """The architecture; only cross-attention has numbers, the rest takes no memory."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    generator = torch.Generator().manual_seed(0)
    for module in (m for name, m in unet.named_modules() if name.endswith("attn2")):
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            parameter.data = 0.04 * torch.randn(parameter.shape, generator=generator)
        module.to(dtype)
    return unet.requires_grad_(False)


def increments(unet: UNet2DConditionModel, scope: str, count: int, rank: int | None) -> dict[str, Increment]:
    """Of random numbers, dense where ``rank`` is ``None``; factors share the one that reads the text, as they do in the
    files."""
    parameters = dict(unet.named_parameters())
    touched = {name: parameters[name].detach() for name in touched_parameters(unet, scope)}
    fingerprint, generator = Fingerprint.of("random", touched), torch.Generator().manual_seed(1)

    def one() -> Increment:
        down = None if rank is None else torch.randn(rank, 768, generator=generator)

        def delta(shape):
            if down is None:
                return SCALE * torch.randn(shape, generator=generator)
            return Factors(SCALE * torch.randn(shape[0], rank, generator=generator), down)

        gram = torch.randn(768, TOKENS, generator=generator)
        return Increment({name: delta(weight.shape) for name, weight in touched.items()}, fingerprint, gram=gram)

    return {f"concept {i:03d}": one() for i in range(count)}


def timed(function: Callable[[], object], before: Callable[[], object] = lambda: None, repeats: int = 7) -> list[float]:
    """Median, least and most seconds; ``before`` is not timed. The first call is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        before()
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    rest = seconds[1:]
    return [statistics.median(rest), min(rest), max(rest)]


def composed(unet: UNet2DConditionModel, library: dict[str, Increment], count: int, solve: str) -> dict:
    """Two sets of ``count``: first contact (with all checks), put on, switched, taken off."""
    keep = KeepList({frozenset(): torch.cov(torch.randn(768, 4096)).double() * 4096})
    one, other = ({name: 1.0 for name in list(library)[start : start + count]} for start in (0, count))
    composer = Composer(unet, library, solve=solve, keep=keep)
    began = time.perf_counter()
    composer.set(one)
    first = time.perf_counter() - began
    composer.set(other)
    times = {
        "put on": timed(lambda: composer.set(one), composer.restore_all),
        "switch": timed(lambda: composer.set(one), lambda: composer.set(other)),
        "take off": timed(composer.restore_all, lambda: composer.set(one)),
    }
    if solve == "sum" and all(isinstance(d, Factors) for name in one for d in library[name].deltas.values()):
        times["the products alone"] = timed(products(unet, [library[name] for name in one]))
    if solve == "joint":
        active = {name: library[name] for name in one}
        times["the solve alone"] = timed(lambda: composer._transfers(active))
    composer.restore_all()
    return {"first contact": [first] * 3, **times}


def products(unet: UNet2DConditionModel, increments: list[Increment]) -> Callable[[], None]:
    """The arithmetic of a set, with its factors stacked beforehand: no composer is faster than this."""
    parameters = dict(unet.named_parameters())
    stacked = [
        (
            parameters[name].detach().clone(),
            torch.cat([increment.deltas[name].up for increment in increments], dim=1),
            torch.cat([increment.deltas[name].down for increment in increments]),
            torch.empty_like(parameters[name]),
        )
        for name in increments[0].deltas
    ]
    return lambda: [torch.addmm(weight, up, down, out=out) for weight, up, down, out in stacked]


def copied(unet: UNet2DConditionModel, scope: str) -> dict:
    parameters = dict(unet.named_parameters())
    weights = {name: parameters[name] for name in touched_parameters(unet, scope)}
    pristine = {name: weight.clone() for name, weight in weights.items()}

    def copy():
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(pristine[name])

    return {
        "copy": timed(copy, repeats=15),
        "load_state_dict": timed(lambda: unet.load_state_dict(pristine, strict=False), repeats=15),
    }


def peft_layers(unet: UNet2DConditionModel, count: int, rank: int) -> list[BaseTunerLayer]:
    """As ``load_lora_weights`` leaves them: ``count`` adapters on keys and values."""
    for i in range(count):
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=r".*attn2\.to_[kv]", init_lora_weights=False)
        inject_adapter_in_model(config, unet, adapter_name=f"a{i}")
    return [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]


def peft_composed(layers: list[BaseTunerLayer], count: int) -> dict:
    """``set_adapters`` changes what a forward pass adds, which every later pass pays; ``fuse`` writes the weights."""
    one, other = ([f"a{i}" for i in range(start, start + count)] for start in (0, count))

    def activate(names):
        for layer in layers:
            layer.set_adapter(names)

    def fuse(names):
        for layer in layers:
            layer.merge(adapter_names=names)

    def unfuse():
        for layer in layers:
            layer.unmerge()

    def switch():
        unfuse()
        fuse(one)

    def on_other():
        unfuse()
        fuse(other)

    fuse(other)
    times = {
        "set_adapters": timed(lambda: activate(one), lambda: activate(other)),
        "put on (fuse)": timed(lambda: fuse(one), unfuse),
        "switch (unfuse, fuse)": timed(switch, on_other),
        "take off (unfuse)": timed(unfuse, lambda: fuse(one)),
    }
    return times


def drift(dtype: torch.dtype, cycles: int, rank: int) -> dict[str, float]:
    """Of one concept put on and taken off: the largest change of a weight, as a share of the weights' standard
    deviation."""
    unet = unet_of_cross_attention(dtype)
    before = {name: p.clone() for name, p in unet.named_parameters() if reads_text(name)}
    spread = torch.cat([weight.float().flatten() for weight in before.values()]).std()
    composer = Composer(unet, increments(unet, "esd-x-strict", 1, rank))
    for _ in range(cycles):
        composer.erase("concept 000")
        composer.restore("concept 000")

    def off(weights):
        return max((weights[name].float() - before[name].float()).abs().max() / spread for name in before).item()

    found = {"multierase": off(dict(unet.named_parameters()))}
    layers = peft_layers(unet, 1, rank)
    for _ in range(cycles):
        for layer in layers:
            layer.merge()
        for layer in layers:
            layer.unmerge()
    after = {name.replace(".base_layer", ""): weight for name, weight in unet.named_parameters()}
    return {**found, "PEFT, fuse and unfuse": off(after)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[10, 4], help="of factored increments")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results, unet = Results(args.out, "0/1"), unet_of_cross_attention()
    seconds = {scope: results.get(scope, lambda s=scope: copied(unet, s)) for scope in ("esd-x-strict", "esd-x")}
    kinds = {
        **{(f"keys and values, rank {rank}", "esd-x-strict", rank): (1, 10, 100) for rank in args.ranks},
        ("keys and values, dense", "esd-x-strict", None): (1, 10),
        ("cross-attention, dense", "esd-x", None): (1, 10),
    }
    for (name, scope, rank), counts in kinds.items():
        library = increments(unet, scope, 2 * max(counts), rank)
        for count in counts:
            for solve in ("sum", "joint"):
                key = f"{name}, {count}, {solve}"
                seconds[key] = results.get(key, lambda s=solve, n=count, lib=library: composed(unet, lib, n, s))
                print(key, seconds[key], file=sys.stderr, flush=True)
        del library
    adapted = unet_of_cross_attention()
    layers = peft_layers(adapted, 20, args.ranks[0])
    for count in (1, 10):
        key = f"keys and values, PEFT, {count}"
        seconds[key] = results.get(key, lambda n=count: peft_composed(layers, n))
        print(key, seconds[key], file=sys.stderr, flush=True)
    drifts = {
        str(dtype).removeprefix("torch."): results.get(
            f"drift {dtype}", lambda d=dtype: drift(d, args.cycles, args.ranks[0])
        )
        for dtype in (torch.float32, torch.float16)
    }
    table = {}
    for key, times in seconds.items():
        scope = "esd-x" if key == "esd-x" or key.startswith("cross-attention") else "esd-x-strict"
        copy = seconds[scope]
        table[key] = {
            what: {
                "copies": [round(value / copy["copy"][0], 2) for value in found],
                "seconds": [round(value, 5) for value in found],
            }
            for what, found in times.items()
        }
    report = {
        "benchmark": "compose", "ranks": args.ranks, "threads": args.threads, "cycles": args.cycles,
        "numbers are": "median, least, most", "table": table, "drift": drifts,
    }  # fmt: skip
    results.finish(report)


if __name__ == "__main__":
    main()
