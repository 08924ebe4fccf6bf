"""The watch over a model's parameters sees every change of their bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from multierase.models.weights import _stamp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 3, 3, 3)])
def test_one_bit_is_another_stamp(dtype, shape):
    values = torch.zeros(shape).to(dtype)
    parameter = nn.Parameter(values, requires_grad=False)
    before = _stamp(parameter)
    assert _stamp(parameter) == before

    whole = parameter.data.reshape(-1)
    whole.view(torch.uint8)[-1] ^= 1
    parameter.data = whole.reshape(shape)
    assert _stamp(parameter).version == before.version
    assert _stamp(parameter) != before


def test_a_part_of_a_flat_buffer_at_an_odd_place():
    """As shared or flattened weights lie in memory: not at a multiple of eight bytes."""
    buffer = torch.arange(21, dtype=torch.float16)
    part = nn.Parameter(buffer[1:17], requires_grad=False)
    whole = nn.Parameter(buffer[1:17].clone(), requires_grad=False)
    before = _stamp(part)
    assert isinstance(_stamp(whole).checksum, int)
    buffer[3] = 7
    assert _stamp(part) != before


def test_weights_made_in_inference_mode_have_a_stamp():
    with torch.inference_mode():
        values = torch.ones(4)
    parameter = nn.Parameter(values, requires_grad=False)
    assert _stamp(parameter).version == 0
