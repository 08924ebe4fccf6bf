"""Erasures under way, and increments compared."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from multierase import Concept, EraseSettings, Increment, Model
from multierase.training.erasure import Erasure
from multierase.training.plan import Plan, Planner


def plan_of(
    model: Model, concept: Concept | str, settings: EraseSettings, objective: str = "esd", beside=()
) -> Plan:
    named = Concept(concept) if isinstance(concept, str) else concept
    return Planner(model, settings, objective).plan(named, beside=beside)


def erasure_of(
    model: Model, concept: Concept | str, settings: EraseSettings, objective: str = "esd"
) -> Erasure:
    return Erasure(model, plan_of(model, concept, settings, objective), "esd")


def assert_same_bits(one: Increment, other: Increment) -> None:
    """Everything but what the clock says."""
    cost = dataclasses.replace(other.provenance.cost, seconds=0.0, peak_memory_mib=0)
    provenances = [
        dataclasses.replace(increment.provenance, cost=cost) for increment in (one, other)
    ]
    same_evaluations = one.provenance.cost.evaluations == other.provenance.cost.evaluations
    assert same_evaluations
    assert dataclasses.replace(one, provenance=provenances[0]) == dataclasses.replace(
        other, provenance=provenances[1]
    )


def apart(one: Increment, other: Increment) -> float:
    """The mean relative difference of the deltas."""
    differences = []
    for name in one.deltas:
        here, there = one.dense(name), other.dense(name)
        differences.append(((here - there).norm() / here.norm()).item())

    return float(np.mean(differences))


def inputs_for(model: Model, prompt: str, count: int = 4) -> tuple:
    """Latents at some times, with one prompt."""
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(count, *model.latent_shape, generator=generator)
    t = torch.linspace(99, 899, count).long()

    return x_t, t, model.encode([prompt] * count)
