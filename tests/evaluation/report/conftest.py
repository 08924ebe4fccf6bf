"""A store of verdicts that are written by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from multierase.evaluation.concept_sets import concept_sets
from multierase.evaluation.observations import Observations, thumbnail
from multierase.evaluation.store import Store
from multierase.evaluation.suites import Suite, load_suite

TABLE = """case_number,prompt,evaluation_seed,studio,subject,without_studio
0,a church by Noto,0,Noto,church,a church
1,a cat by Noto,1,Noto,cat,
2,a cat by <b>Twemoji</b>,1,Twemoji,cat,a cat
"""
SEEN: Mapping[tuple[str, ...], list[str]] = {  # by what is erased: the studios seen
    (): ["Noto", "Noto", "Twemoji"],
    ("Noto",): ["Fluent", "Noto", "Twemoji"],
    ("Twemoji",): ["Noto", "Noto", "Noto"],
    ("Noto", "Twemoji"): ["Fluent", "Fluent", "Fluent"],
}


@pytest.fixture
def suite(tmp_path) -> Suite:
    (tmp_path / "few.csv").write_text(TABLE)
    (tmp_path / "few.yaml").write_text(
        "prompts: few.csv\nlabels: [studio, subject]\njudge: emoji\n"
    )
    return load_suite(tmp_path / "few.yaml")


@pytest.fixture
def observations(suite) -> dict[tuple[str, ...], Observations]:
    chance = np.random.default_rng(0)
    found = {}
    for erased, studios in SEEN.items():
        subjects = ["church", "cat", "cat" if not erased else "dog"]
        found[erased] = Observations(
            {"studio": studios, "subject": subjects},
            chance.normal(size=(3, 5)).astype(np.float32),
            {case.number: thumbnail(torch.rand(3, 64, 64)) for case in suite.cases},
            counts={"FEET_EXPOSED": [0, len(erased), 1], "BELLY_EXPOSED": [0, 0, 0]},
            measures={
                "clip_score": [30.0, 20.0 - len(erased), 25.0],
                "clip_score_without_studio": [12.0 - len(erased), None, 8.0],
            },
        )
    return found


@pytest.fixture
def store(suite, observations, tmp_path):
    store = Store(tmp_path / "sweep.db")
    subsets = concept_sets("subsets", ["Noto", "Twemoji"])
    store.begin({"judge": "<script>by hand</script>"}, suite, subsets)
    for erased, seen in observations.items():
        store.add(suite, erased, seen)

    yield store
    store.close()
