"""Which optimiser trains: what is missing is said before anything is trained."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from multierase import Workspace
from multierase.errors import UsageError
from multierase.training import loop
from multierase.training.optimizers import MOMENTS, optimizer_class


@pytest.mark.parametrize("name", MOMENTS)
def test_its_moments_have_the_names_that_checkpoints_look_for(name):
    pytest.importorskip("bitsandbytes")
    weight = torch.ones(64, 64, requires_grad=True)
    optimizer = optimizer_class(name)([{"params": [weight], "lr": 0.1}])
    weight.sum().backward()
    optimizer.step()
    moments = [optimizer.state[weight][moment] for moment in MOMENTS[name]]
    assert all(moment.shape == weight.shape for moment in moments)
    assert {moment.element_size() for moment in moments} == {1 if name == "adam8bit" else 4}
    assert (weight < 1).all()


def test_a_missing_bitsandbytes_is_told_before_anything_is_trained(
    tiny, quick, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.setattr(loop, "descend", lambda *_: pytest.fail("trains"))
    settings = replace(quick, optimizer="adam8bit")
    with pytest.raises(UsageError, match=r"needs bitsandbytes: pip install 'multierase\[adam8"):
        Workspace(tmp_path, tiny).train("Noto", settings=settings)
    assert list(tmp_path.iterdir()) == []
