"""The verb ``doctor`` on paper: what people read, and its exit code."""

from __future__ import annotations

import dataclasses

import pytest

from multierase import doctor


def test_a_sound_installation_in_80_columns(run, run_json):
    code, out, err = run("doctor")
    report = run_json("doctor")
    assert (code, report["sound"], report["problems"]) == (0, True, [])
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for package in report["packages"]:
        assert package["name"] in out
    assert "emoji, embedded" in out
    assert "all that is needed is here" in err


def test_a_base_that_is_not_there_is_an_exit_code(run):
    code, out, err = run("doctor", "--base", "./missing")
    assert code == 1
    assert "./missing: not found" in out
    assert "broken: no base at './missing'" in " ".join(err.split())


@pytest.fixture
def examined(monkeypatch):
    """Let an examination find something else."""
    real = doctor.examine()

    def examined(**found):
        changed = dataclasses.replace(real, **found)
        monkeypatch.setattr(doctor, "examine", lambda base: changed)

    return examined


def test_what_is_broken_and_what_can_be_installed_is_told(run, run_json, examined):
    examined(
        packages=(doctor.Package("torch", ">=2.6", None),),
        extras=(
            doctor.Extra("ray", ("ray>=2.9",), "pip install 'multierase[ray]'"),
            doctor.Extra("plots", (), "pip install 'multierase[plots]'"),
        ),
        machine=doctor.Machine("12.8", ("A GPU, 80 GiB", "A GPU, 80 GiB"), "1", 16, "4"),
        cache=doctor.Cache("/nowhere", 0, 0, False),
        base=doctor.Base("owner/name", "hub id", False),
        problems=("torch is missing: pip install 'torch>=2.6'",),
    )
    code, out, err = run("doctor")
    text = " ".join(out.split())
    assert code == 1
    assert "torch missing >=2.6" in text
    assert "ray no pip install 'multierase[ray]' ray>=2.9" in text
    assert "multierase[plots]" not in text
    assert "CUDA_VISIBLE_DEVICES=1" in text
    assert "16, 4 used (OMP_NUM_THREADS)" in text
    assert "/nowhere, empty" in text
    assert "owner/name: not in the cache, is downloaded when it is first needed" in text
    assert max(map(len, out.splitlines())) <= 80
    assert "broken: torch is missing: pip install 'torch>=2.6'" in err
    assert "all that is needed" not in err
    assert run("doctor", "--json")[0] == 1
