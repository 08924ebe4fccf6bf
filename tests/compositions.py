"""Increments of random numbers for a model, and what composing them must give."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from multierase import Composer, Increment, Model, from_pipeline
from multierase.increments.fingerprint import Fingerprint
from multierase.increments.provenance import Provenance
from multierase.increments.value import Factors, gram_factor

SCOPES = {
    "dali": "esd-x-strict",
    "monet": "esd-x",
    "nudity": "selfattn",
    "van gogh": "esd-x-strict",
}
CONCEPTS = tuple(SCOPES)
Weights = Mapping[str, torch.Tensor]


def random_increment(
    model: Model, concept: str, scope: str, seed: int, *, factored: bool = False
) -> Increment:
    generator = torch.Generator().manual_seed(seed)
    here = model.parameters()
    frozen = {name: here[name] for name in model.scope_parameters(scope)}
    deltas = {}
    for name, weight in frozen.items():
        if factored and weight.ndim == 2:
            up = 0.01 * torch.randn(weight.shape[0], 2, generator=generator)
            deltas[name] = Factors(up, torch.randn(2, weight.shape[1], generator=generator))
        else:
            deltas[name] = 0.01 * torch.randn(weight.shape, generator=generator)

    width = model.tokens([""], "tokens").shape[1]
    return Increment(
        deltas=deltas,
        base=Fingerprint.of(model.name, model.family, frozen),
        provenance=Provenance(concept, prompts=(concept,), contexts=("",)),
        grams={"tokens": gram_factor(torch.randn(6, width, generator=generator))},
        readers={name: stream for name, stream in model.readers.items() if name in frozen},
    )


def increments_of(model: Model) -> dict[str, Increment]:
    """Four concepts in three scopes, one of them in factors."""
    return {
        name: random_increment(model, name, scope, seed, factored=name == "van gogh")
        for seed, (name, scope) in enumerate(SCOPES.items())
    }


def snapshot(model: Model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.parameters().items()}


def assert_bits(model: Model, weights: Weights) -> None:
    here = model.parameters()
    assert here.keys() == weights.keys()
    assert [name for name in here if not torch.equal(here[name], weights[name])] == []


def twin_of(model: Model) -> Model:
    """The same weights in other modules."""
    return from_pipeline(copy.deepcopy(model.pipeline), model.name)


class Expected:
    """The weights that each set of concepts must give, by a composer without a history."""

    def __init__(self, model: Model, increments: Mapping[str, Increment], **options):
        self._twin = twin_of(model)
        self._composer = Composer(self._twin, increments, **options)
        self._known: dict[tuple, dict[str, torch.Tensor]] = {}

    def __getitem__(self, erased: Mapping[str, float]) -> dict[str, torch.Tensor]:
        key = tuple(sorted(erased.items()))
        if key not in self._known:
            self._composer.restore_all()
            self._composer.set(erased)
            self._known[key] = snapshot(self._twin)

        return self._known[key]
