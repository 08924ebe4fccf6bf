import importlib.util
import sys

import numpy as np
import pytest
import torch
from torchmetrics.functional.multimodal.clip_score import _clip_score_update

from multierase.evaluation.clip import Clip
from multierase.evaluation.evaluator import Look
from multierase.evaluation.measures import ClipScore, Inception, Lpips, load_measures
from multierase.evaluation.metrics import Gaussian, frechet_distance

PROMPTS = ["a church by Noto", "a cat", "a dog", "by Twemoji", "x"]


class Towers(torch.nn.Module):
    """A CLIP whose towers answer as those of older transformers did, which torchmetrics expects."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels):
        return self.model.visual_projection(self.model.vision_model(pixels).pooler_output)

    def get_text_features(self, tokens, mask):
        return self.model.text_projection(self.model.text_model(tokens, mask).pooler_output)


@pytest.mark.filterwarnings("ignore:.*max_length:UserWarning")  # transformers', of how torchmetrics calls it, once
def test_clip_score_is_torchmetrics_(clip_folder, pictures):
    clip = Clip.load(str(clip_folder))
    measure = ClipScore(clip)
    bytes_ = (pictures * 255).byte()
    with torch.no_grad():
        expected, count = _clip_score_update(bytes_, PROMPTS, Towers(clip.model), clip.processor)
    assert count == 5
    np.testing.assert_allclose(measure(pictures, PROMPTS, None), expected, atol=1e-4)
    assert max(abs(expected)) > 1 and measure.name.startswith(f"CLIP {clip_folder}, sha256 ")
    long = " ".join(["church"] * 300)  # more than it reads
    assert len(measure(pictures[:1], [long], None)) == 1
    with pytest.raises(FileNotFoundError, match="no CLIP model at '/no/where'"):
        load_measures(clip="/no/where")


def test_frechet_distance_is_torchmetrics_fid_of_the_same_features():
    """FID with a network of our own, which torchmetrics takes: what it makes of the features is what we make."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Means(torch.nn.Module):
        num_features = 6

        def forward(self, images):
            return images.float().mean(dim=(2, 3)).repeat(1, 2)[:, :6] + images.float()[:, 0, 0, :6]

    chance, network = torch.Generator().manual_seed(0), Means()
    real, fake = ((torch.randint(0, 256, (40, 3, 8, 8), generator=chance)).byte() for _ in range(2))
    metric = FrechetInceptionDistance(feature=network)
    metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = frechet_distance(Gaussian.of(network(real).numpy()), Gaussian.of(network(fake).numpy()))
    assert ours == pytest.approx(metric.compute().item(), rel=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is there")
def test_no_measure_takes_the_place_of_one_that_is_missing(tmp_path):
    with pytest.raises(ValueError, match="LPIPS needs torchmetrics.*torchvision"):
        Lpips("alex")
    with pytest.raises(FileNotFoundError, match="--fid takes torch-fidelity's Inception"):
        Inception(str(tmp_path / "weights.pth"))
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="FID needs torchmetrics.*torch-fidelity"):
        Inception(str(tmp_path / "weights.pth"))


def test_without_torchmetrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(ValueError, match=r"pip install 'multierase\[measures\]'"):
        load_measures(lpips="alex")


def test_batches_are_put_together_in_their_order():
    one = Look({"a": ["x"]}, np.zeros((1, 2)), {3: b"p"}, {"n": [1]}, {"m": [0.5]})
    two = Look({"a": ["y", "z"]}, np.ones((2, 2)), {}, {"n": [0, 2]}, {"m": [1.5, 2.5]})
    whole = Look.of([one, two])
    assert whole.seen == {"a": ["x", "y", "z"]} and whole.counts == {"n": [1, 0, 2]}
    assert whole.measures == {"m": [0.5, 1.5, 2.5]}
    assert whole.features.tolist() == [[0, 0], [1, 1], [1, 1]] and whole.frechet_features is None
    assert whole.thumbnails == {3: b"p"}
