"""The technique that eval-unlearn's runner takes: its contract, and the real runner."""

from __future__ import annotations

import configparser
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multierase import EraseSettings, Library, Workspace, erase, load_base
from multierase.errors import UnknownConcept, UsageError
from multierase.interop.eval_unlearn import Technique
from multierase.pictures import to_picture
from multierase.sampling import SamplingSettings

GROUP = "eval_unlearn.techniques"
FEW = {"num_inference_steps": 2, "batch_size": 2}
PROMPTS = ["a church by Noto", "a cat", "a key"]


@pytest.fixture
def library(noto, tmp_path) -> str:
    """A library that holds Noto alone, of the model ``tiny``."""
    Library(tmp_path / "lib", create=True).save(noto)

    return str(tmp_path / "lib")


def pixels(pictures) -> list[list]:
    return [np.asarray(picture).tolist() for picture in pictures]


def made_by_workspace(library, base, erased, seeds=(5, 6, 7)) -> list[list]:
    """The pictures that ``multierase generate`` makes."""
    workspace = Workspace(library, base)
    with workspace.erasing(*erased):
        pictures = workspace.generate(PROMPTS, list(seeds), SamplingSettings(2, batch_size=2))

    return pixels(map(to_picture, pictures))


def drawn_by(technique, **more) -> list[list]:
    """The pictures of a technique, whose model is the base again afterwards."""
    pictures = technique.generate(prompts=PROMPTS, **more)
    technique.workspace.restore_all()
    assert all(isinstance(picture, Image.Image) for picture in pictures)

    return pixels(pictures)


@pytest.mark.parametrize(
    ("config", "erased"),
    [
        ({"erase": ["Noto"]}, ["Noto"]),
        ({"erase": {"Noto": 1}}, ["Noto"]),
        ({"erase_concept": "Noto"}, ["Noto"]),
        ({"erase": ["Noto"], "erase_concept": "Noto"}, ["Noto"]),
        ({"erase": []}, []),
    ],
)
def test_pictures_are_those_of_the_workspace(config, erased, library, tiny):
    technique = Technique(base=tiny, library=library, **FEW, **config)
    made = drawn_by(technique, seed=5)

    assert made == made_by_workspace(library, tiny, erased)
    if erased:
        assert made != made_by_workspace(library, tiny, [])


def test_strengths_are_applied(library, tiny):
    technique = Technique(base=tiny, library=library, erase={"Noto": 0.5})
    assert dict(technique.workspace.erased) == {"Noto": 0.5}


def test_without_a_seed_no_two_batches_have_the_same_noise(tiny):
    technique = Technique(base=tiny, erase=[], seed=5, **FEW)
    first, second = (pixels(technique.generate(PROMPTS[:2])) for _ in range(2))

    assert first == pixels(technique.generate(PROMPTS[:2], seed=5))
    assert second == pixels(technique.generate(PROMPTS[:2], seed=7))


def test_a_call_may_have_its_own_sampling(tiny):
    technique = Technique(base=tiny, erase=[], **FEW)
    longer = Technique(base=tiny, erase=[], num_inference_steps=3, batch_size=2)

    same = pixels(technique.generate(PROMPTS, seed=1, num_inference_steps=3))
    assert same == pixels(longer.generate(PROMPTS, seed=1))
    assert same != pixels(technique.generate(PROMPTS, seed=1))


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({}, UsageError, "an empty list is the base itself"),
        ({"erase_concept": ["Noto", "Twemoji"]}, UsageError, "several under erase"),
        ({"erase": "Noto"}, UsageError, "give a list of concepts"),
        ({"erase": [["Noto"]]}, UsageError, "give a list of concepts"),
        ({"erase": {"Noto": "much"}}, UsageError, "a strength, a number"),
        ({"erase": ["Noto"], "erase_concept": "Twemoji"}, UsageError, "give one of these"),
        ({"erase": ["Notto"]}, UnknownConcept, "did you mean 'Noto'"),
        ({"erase_concept": "noto"}, UnknownConcept, "did you mean 'Noto'"),
        ({"erase": ["Noto"], "num_inference_step": 2}, UsageError, "did you mean 'num_inf"),
        ({"erase": ["Noto"], "num_inference_steps": 0}, ValueError, "give 1 or more"),
    ],
)
def test_what_is_wrong_is_said_before_the_base_is_loaded(config, error, said, library):
    with pytest.raises(error, match=said):
        Technique(base="/no/such/base", library=library, **config)


def test_a_library_that_is_not_given_or_not_there(tmp_path):
    with pytest.raises(UsageError, match="give library"):
        Technique(erase=["Noto"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Technique(library=str(tmp_path / "nowhere"), erase=["Noto"])


def test_an_unknown_setting_of_a_call_is_an_error(tiny):
    with pytest.raises(UsageError, match="unknown setting 'guidance'; did you mean 'guidance_sc"):
        Technique(base=tiny, erase=[]).generate(PROMPTS, guidance=3)


def test_the_entry_point_leads_to_it():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    name, value = config["options.entry_points"][GROUP].strip().split(" = ")

    assert name == "multierase"
    assert metadata.EntryPoint(name, value, GROUP).load() is Technique


@pytest.mark.filterwarnings("ignore")
def test_the_real_runner_takes_it(sd_folder, quick: EraseSettings, tmp_path):
    registry = pytest.importorskip("eval_unlearn.registry")
    from eval_unlearn.runners import SingleBenchmarkRunner
    from eval_unlearn.types import Dataset, MetricResult

    known = {entry.name for entry in metadata.entry_points(group=GROUP)}
    assert "multierase" in known, "installed before it had this entry point: install it again"
    library = Library(tmp_path / "lib", create=True)
    library.save(erase(load_base(str(sd_folder)), "Noto", quick))
    seen = []

    class Counted:
        """A metric of two batches, that needs no network."""

        def load_dataset(self):
            return [Dataset([prompt], {"source": "here"}) for prompt in PROMPTS]

        def update(self, images, prompts, metadata):
            seen.extend(pixels(images))

        def compute(self):
            return MetricResult("counted", float(len(seen)))

    registry.register_metric("counted")(Counted)
    config = {"base": str(sd_folder), "library": str(library.folder), "erase_concept": "Noto"}
    config |= {**FEW, "seed": 5, "device": "cpu"}
    runner = SingleBenchmarkRunner(
        "multierase", "counted", technique_config=config, output_dir=str(tmp_path / "results")
    )
    report = runner.run()

    assert report["metric_result"]["value"] == 3
    assert report["erase_concept"] == "noto"
    assert json.dumps(report)
    assert len(list((tmp_path / "results").rglob("*.png"))) == 3
    technique = Technique(**config)
    assert seen == [pixels(technique.generate([one]))[0] for one in PROMPTS]
