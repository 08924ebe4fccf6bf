"""The student: increments beside frozen weights are those of changed weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trained import erasure_of

from multierase.training.delta import side_by_side, together


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_readers_beside_the_frozen_weights_are_those_of_changed_weights(tiny, quick, dtype):
    tiny.pipeline.to(dtype=dtype)
    tiny.text._cache.clear()
    students = [erasure_of(tiny, name, quick).student for name in ("Noto", "Twemoji")]
    generator = torch.Generator().manual_seed(0)
    for student in students:
        for variable in student.variables.values():
            variable.data.copy_(0.3 * torch.randn(variable.shape, generator=generator))

    x_t = torch.randn(3, *tiny.latent_shape, generator=generator)
    t, text = torch.tensor([10, 500, 900]), tiny.encode(["Noto", "a church by Twemoji", "Twemoji"])
    with side_by_side(students, [1, 2]), torch.no_grad():
        got = tiny.predict(x_t, t, text).split([1, 2])
    for student, part, mine in zip(students, got, (slice(0, 1), slice(1, 3)), strict=True):
        inputs = x_t[mine], t[mine], text.take(mine)
        with torch.no_grad():
            expected, frozen = tiny.predict(*inputs, together([student])), tiny.predict(*inputs)
        tolerance = 1e-5 if dtype == torch.float32 else 0.2
        assert (part - expected).norm() < tolerance * (expected - frozen).norm()


def test_the_layers_are_free_of_hooks_afterwards(tiny, quick):
    student = erasure_of(tiny, "Noto", quick).student

    def fail():
        with side_by_side([student], [1]):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    for name in student.variables:
        assert not tiny.module_of(name)._forward_hooks


def test_what_is_learned_is_copied_and_shares_its_down(tiny, quick):
    settings = dataclasses.replace(quick, scope="esd-x")
    student = erasure_of(tiny, "Noto", settings).student
    for variable in student.variables.values():
        variable.data.normal_()
    learned = student.deltas()
    downs = {id(learned[name].down) for name in student.readers}
    assert len(downs) == 1
    for name, variable in student.variables.items():
        delta = learned[name]
        dense = delta.dense() if name in student.readers else delta
        expected = variable @ student.down[name] if name in student.down else variable
        assert torch.equal(dense, expected)
        variable.data.zero_()
        stays = delta.up if name in student.readers else delta
        assert stays.abs().sum() > 0
