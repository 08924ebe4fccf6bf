import dataclasses

import numpy as np
import pytest
from PIL import Image

from multierase.errors import DatabaseError, WeightsFileError
from multierase.evaluation.instruments import load_instruments
from multierase.evaluation.judges.nudity import NudeNetJudge
from multierase.evaluation.reference import load_reference
from multierase.evaluation.report.rows import Rows
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes
from multierase.generate import generate
from multierase.pictures import to_picture
from multierase.sampling import SamplingSettings

pytestmark = pytest.mark.slow  # networks of some size

PROMPTS = ["a church by Noto", "a cat by Twemoji", "a cat by Firefox"]


@pytest.fixture(scope="module")
def bare(experiment):
    return dataclasses.replace(experiment, clip=None)


@pytest.fixture
def real(emoji, tmp_path):
    """The base's own pictures, as files."""
    folder = tmp_path / "real"
    folder.mkdir()
    images = generate(emoji, PROMPTS, [0, 1, 2], SamplingSettings(inference_steps=3))
    for index, image in enumerate(images):
        to_picture(image).save(folder / f"{index}.png")
    (folder / "readme.txt").write_text("no picture")
    return folder


def test_a_set_may_be_compared_with_real_pictures(bare, real, tmp_path):
    compared = dataclasses.replace(bare, reference=str(real))
    stages = [("", ("Noto",))]
    with sweep(compared, stages, tmp_path / "a.db", executor=Processes(1)) as store:
        base, noto = Rows(store).rows()
    assert base["frechet_distance"] is None
    assert base["reference_distance"] < 0.05  # but for the files' rounding
    assert noto["reference_distance"] == pytest.approx(noto["frechet_distance"], rel=0.05)
    assert noto["frechet_distance"] > 10 * base["reference_distance"]

    Image.new("RGB", (64, 64)).save(real / "3.png")
    with pytest.raises(DatabaseError, match="other settings: reference"):
        sweep(compared, stages, tmp_path / "a.db")


def test_references_that_cannot_be(bare, tmp_path):
    instruments = load_instruments(bare)
    missing = dataclasses.replace(bare, reference="/no/where")
    with pytest.raises(FileNotFoundError, match="no folder of pictures and no .npz at /no/where"):
        sweep(missing, [], tmp_path / "a.db")
    with pytest.raises(ValueError, match="0 pictures .*give two or more"):
        load_reference(bare.library, instruments)

    np.savez(tmp_path / "coco.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ValueError, match="statistics are of Inception's features, give --fid"):
        load_reference(str(tmp_path / "coco.npz"), instruments)

    for name in "ab":
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
    featureless = dataclasses.replace(instruments, judge=NudeNetJudge())
    with pytest.raises(ValueError, match="NudeNet.* has no features"):
        load_reference(str(tmp_path), featureless)


@pytest.mark.parametrize("name", ["a.npz", "pictures"])
def test_damaged_references_are_one_error(bare, tmp_path, name):
    with_inception = dataclasses.replace(load_instruments(bare), inception=lambda images: images)
    damaged = tmp_path / name
    if name == "pictures":
        damaged.mkdir()
        for number in range(2):
            (damaged / f"{number}.png").write_bytes(b"no picture")
    else:
        damaged.write_bytes(b"no archive")

    with pytest.raises(WeightsFileError, match="is no picture|give .npz with mu and sigma"):
        load_reference(str(damaged), with_inception)
