"""Answer requests that each erase a set of concepts of their own, many of them in one batch."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary
from tqdm import tqdm

from multierase.composer import Composer
from multierase.errors import ModelChanged
from multierase.generate import generate
from multierase.increments.value import Factors
from multierase.models.model import Model
from multierase.sampling import SamplingSettings
from multierase.separation.changes import Changes
from multierase.workspace import Workspace

TEXTS_OF_A_STEP = 2  # at most: the prompts, and the empty prompt in turn with them


@dataclass(frozen=True)
class Request:
    """A picture to make, and the concepts that are erased in it.

    Args:
        prompt: what to draw.
        seed: of the noise that the picture starts from.
        erased: strengths by concept, or a list of concepts, for a strength of 1. What is kept is
            the former, sorted, without strengths of 0.

    Raises:
        ValueError: for one string in place of a list of concepts.
    """

    prompt: str
    seed: int = 0
    erased: Mapping[str, float] | Sequence[str] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.erased, str):
            raise ValueError(
                f"a request's erased is {self.erased!r}: give a list of concepts, or strengths by "
                "concept"
            )

        given = self.erased
        strengths = given if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
        wanted = {name: strength for name, strength in sorted(strengths.items()) if strength != 0}
        object.__setattr__(self, "erased", wanted)  # a copy: the caller's may change


class Server:
    """Makes pictures by one model, each with its own set of concepts erased.

    Requests share a batch if their sets change only layers that read the text alone. These layers
    compute ``W e`` with the base's weights, and each sample's own ``Δ e`` is added in float32:
    nothing is written into the model. The text is the same at every step, so ``Δ e`` is computed
    once for a batch. Sets that change other layers are composed one after another by
    ``Composer.set``, each for all of its requests.

    A picture is the one that ``Composer.set`` and ``generate`` make for the request alone, but for
    rounding. Several threads may ask: they are answered in turn. What is erased on the model is
    restored meanwhile, and erased again afterwards, also if an error is raised.

    Args:
        source: a model's composer, or the workspace that has it.
    """

    def __init__(self, source: Composer | Workspace):
        self._source = source
        self._lock = threading.Lock()  # a workspace makes its composer at the first request

    def generate(
        self,
        requests: Sequence[Request],
        settings: SamplingSettings | None = None,
        *,
        progress: bool = False,
    ) -> torch.Tensor:
        """Make one picture for each request.

        Args:
            requests: with any sets, in any order.
            settings: see ``SamplingSettings``.
            progress: show a progress bar on stderr.

        Returns:
            ``(n, 3, height, width)`` float32 in [0, 1], on the CPU, in the order of the requests.

        Raises:
            ValueError: for no request, a strength that is not finite or too large, or an increment
                of another base.
            UnknownConcept: for a concept without an increment.
            ModelHeld: if another composer has concepts erased on the model.
            ModelChanged: if somebody else has changed the model's weights or layers.
            DeviceError: if a GPU has too little memory.
        """
        if not requests:
            raise ValueError("there are no requests: give one or more")
        settings = settings or SamplingSettings()
        places: dict[tuple, list[int]] = {}
        for place, request in enumerate(requests):
            erased = cast(Mapping[str, float], request.erased)
            places.setdefault(tuple(erased.items()), []).append(place)

        with self._lock:
            composer, pictures = self._composer, _Pictures(requests, settings, progress)
            with pictures.bar, composer.planned([dict(each) for each in places]) as changes:
                sets = zip(changes, places.values(), strict=True)
                self._answer(composer, list(sets), pictures)

        return pictures.in_order()

    @property
    def _composer(self) -> Composer:
        # A workspace makes another one when it has new increments.
        return self._source.composer if isinstance(self._source, Workspace) else self._source

    def _answer(
        self, composer: Composer, sets: Sequence[tuple[Changes, list[int]]], pictures: _Pictures
    ) -> None:
        """Make the pictures of these sets, each given by its changes and its requests' places."""
        model, size = composer.model, pictures.settings.batch_size
        readers = model.readers
        sharing: list[tuple[int, _Plan]] = []
        others: list[tuple[Changes, list[int]]] = []
        for changes, places in sets:
            plan = _Plan(changes)
            if readers.keys() >= set(plan.parameters):
                sharing += [(place, plan) for place in places]
            else:
                others.append((changes, places))

        for start in range(0, len(sharing), size):
            batch = sharing[start : start + size]
            with side_by_side(model, [plan for _, plan in batch]):
                pictures.make(model, [place for place, _ in batch])
        for changes, places in others:
            composer.set(changes.strengths)
            pictures.make(model, places)


class _Pictures:
    """The pictures of a list of requests, made in any order."""

    def __init__(self, requests: Sequence[Request], settings: SamplingSettings, progress: bool):
        self.requests, self.settings = requests, settings
        self.bar = tqdm(total=len(requests), desc="pictures", disable=not progress)
        self._made: dict[int, torch.Tensor] = {}

    def make(self, model: Model, places: Sequence[int]) -> None:
        """Make the pictures of the requests at these places, by the model as it stands."""
        own = [self.requests[place] for place in places]
        prompts, seeds = [one.prompt for one in own], [one.seed for one in own]
        made = generate(model, prompts, seeds, self.settings)
        self._made.update(zip(places, made, strict=True))
        self.bar.update(len(made))

    def in_order(self) -> torch.Tensor:
        """Return ``(n, 3, h, w)``, in the order of the requests."""
        return torch.stack([self._made[place] for place in range(len(self.requests))])


class _Plan:
    """What a set adds to the outputs of layers that read the text alone."""

    def __init__(self, changes: Changes):
        self.changes = changes
        self._downs = WeakTensorKeyDictionary()  # where the texts are; most layers share one

    @property
    def parameters(self) -> Collection[str]:
        """The parameters that the set changes."""
        return self.changes.shapes.keys()

    def moved(self, parameter: str, text: torch.Tensor) -> torch.Tensor:
        """Return ``Σ s_i Δ_i T_i e`` ``(..., out)`` for texts ``(..., d)`` in float32.

        Factors are never multiplied out: two narrow products for any number of concepts.
        """
        delta = self.changes.delta(parameter)
        if not isinstance(delta, Factors):
            return text @ delta.to(text.device).T

        if delta.down not in self._downs:
            self._downs[delta.down] = delta.down.to(text.device)
        return (text @ self._downs[delta.down].T) @ delta.up.to(text.device).T


class _Added:
    """A hook that adds to what a layer says of each sample the sample's own ``Δ e``.

    Args:
        parameter: the layer's weight.
        plans: of each sample of the batch; equal ones side by side.
    """

    def __init__(self, parameter: str, plans: Sequence[_Plan]):
        self.parameter, self.plans = parameter, plans
        self.known: list[tuple[torch.Tensor, torch.Tensor]] = []  # texts, and what is added

    def __call__(
        self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        text = inputs[0]
        for known, added in self.known:
            if known is text:
                return output + added

        added = self._added(text, output)
        self.known = [(text, added), *self.known][:TEXTS_OF_A_STEP]
        return output + added

    def _added(self, text: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        # With guidance a batch has every sample twice: all empty prompts, then all prompts.
        samples = len(self.plans)
        rows = text.float().unflatten(0, (-1, samples))
        added = rows.new_zeros(*rows.shape[:-1], output.shape[-1])

        start = 0
        for plan, same in itertools.groupby(self.plans):
            end = start + len(list(same))
            if self.parameter in plan.parameters:
                added[:, start:end] = plan.moved(self.parameter, rows[:, start:end])
            start = end

        added = added.flatten(0, 1).to(output.dtype)
        if not torch.isfinite(added).all():
            raise ValueError(
                f"the strengths of these requests make {self.parameter} infinite in "
                f"{output.dtype}: give smaller strengths, or another increment"
            )
        return added


@contextlib.contextmanager
def side_by_side(model: Model, plans: Sequence[_Plan]) -> Iterator[None]:
    """Let every sample of a batch have its own changes, for a block.

    Args:
        plans: of each sample; they change layers that read the text alone.

    Raises:
        ModelChanged: at the end, if the pipeline asked one of these layers for nothing.
    """
    changed = sorted(set().union(*(plan.parameters for plan in plans)))
    hooks = [_Added(name, plans) for name in changed]
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            handle = model.module_of(hook.parameter).register_forward_hook(hook)
            stack.callback(handle.remove)
        yield

    idle = [hook.parameter for hook in hooks if not hook.known]
    if idle:
        raise ModelChanged(
            f"the pipeline makes pictures without {idle[0]} (its projections may be fused), so "
            "nothing can be erased there: undo that, or load the base again"
        )
