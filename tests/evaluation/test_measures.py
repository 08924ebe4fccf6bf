import importlib.util
import sys

import numpy as np
import pytest
import torch
from torchmetrics.functional.multimodal.clip_score import _clip_score_update

from multierase.errors import MissingExtra, WeightsFileError
from multierase.evaluation.cases import Case
from multierase.evaluation.judges.clip import Clip
from multierase.evaluation.measures import ClipScore, Inception, Lpips, load_measures
from multierase.evaluation.statistics import Gaussian, frechet_distance

PROMPTS = ["a church by Noto", "a cat", "a dog", "by Twemoji", "x"]
CASES = [Case(number, prompt, 0, {}) for number, prompt in enumerate(PROMPTS)]
WITH_TORCHVISION = importlib.util.find_spec("torchvision") is not None


class Towers(torch.nn.Module):
    """A CLIP whose towers answer as older transformers' did, which torchmetrics expects."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels):
        return self.model.visual_projection(self.model.vision_model(pixels).pooler_output)

    def get_text_features(self, tokens, mask):
        return self.model.text_projection(self.model.text_model(tokens, mask).pooler_output)


# transformers', of how torchmetrics calls it, once
@pytest.mark.filterwarnings("ignore:.*max_length:UserWarning")
def test_clip_score_is_torchmetrics_(clip_folder, noise):
    clip = Clip.load(str(clip_folder))
    measure, pixels = ClipScore(clip), (noise * 255).byte()
    with torch.no_grad():
        expected, count = _clip_score_update(pixels, PROMPTS, Towers(clip.model), clip.processor)
    assert count == 5
    np.testing.assert_allclose(measure(noise, CASES, None), expected, atol=1e-4)
    assert max(abs(expected)) > 1
    assert measure.name.startswith(f"CLIP {clip_folder}, sha256 ")

    long = " ".join(["church"] * 300)  # more than it reads
    assert len(measure(noise[:1], [Case(0, long, 0, {})], None)) == 1


def test_the_in_prompt_score_is_of_the_prompt_without_its_concept(clip_folder, noise):
    clip = Clip.load(str(clip_folder))
    measure = ClipScore(clip, "studio")
    without = [{"studio": "a church"}, {"subject": "a picture"}, {}, {"studio": "a picture"}, {}]
    cases = [Case(place, PROMPTS[place], 0, {}, own) for place, own in enumerate(without)]
    first, fourth = ClipScore(clip)(
        noise[[0, 3]], [Case(0, "a church", 0, {}), Case(1, "a picture", 0, {})], None
    )

    found = measure(noise, cases, None)
    assert [score is None for score in found] == [False, True, True, False, True]
    assert (found[0], found[3]) == pytest.approx((first, fourth), abs=1e-4)
    assert measure(noise[2:3], cases[2:3], None) == [None]
    assert (measure.key, measure.name) == ("clip_score_without_studio", clip.name)


def test_frechet_distance_is_torchmetrics_fid_of_the_same_features():
    """FID with a network of our own, which torchmetrics takes."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Means(torch.nn.Module):
        num_features = 6

        def forward(self, images):
            pixels = images.float()
            return pixels.mean(dim=(2, 3)).repeat(1, 2)[:, :6] + pixels[:, 0, 0, :6]

    chance, network = torch.Generator().manual_seed(0), Means()
    real, fake = torch.randint(0, 256, (2, 40, 3, 8, 8), generator=chance).byte()
    metric = FrechetInceptionDistance(feature=network)
    metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)

    ours = [Gaussian.of(network(images).numpy()) for images in (real, fake)]
    assert frechet_distance(*ours) == pytest.approx(metric.compute().item(), rel=1e-5)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="--fid takes torch-fidelity's Inception"):
        Inception(str(tmp_path / "weights.pth"))


@pytest.mark.skipif(WITH_TORCHVISION, reason="torchvision is there")
def test_no_measure_takes_the_place_of_one_that_is_missing(tmp_path):
    with pytest.raises(MissingExtra, match="LPIPS needs torchmetrics.*torchvision"):
        Lpips("alex")
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(MissingExtra, match="FID needs torchmetrics.*torch-fidelity"):
        Inception(str(tmp_path / "weights.pth"))


def test_inceptions_file_is_read_as_weights_only(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    with pytest.raises((WeightsFileError, MissingExtra)):
        Inception(str(tmp_path / "weights.pth"))


def test_without_torchmetrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(MissingExtra, match=r"pip install 'multierase\[measures\]'"):
        load_measures(lpips="alex")


def test_only_what_is_asked_for_is_loaded(clip_folder):
    assert load_measures() == []
    clip = Clip.load(str(clip_folder))
    assert [measure.clip for measure in load_measures(clip)] == [clip]
    keys = [measure.key for measure in load_measures(clip, without=["studio", "subject"])]
    assert keys == ["clip_score", "clip_score_without_studio", "clip_score_without_subject"]
