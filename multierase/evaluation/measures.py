"""Measures of a picture beside what a judge sees in it, each by the network that defines it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from multierase.errors import MissingExtra, WeightsFileError
from multierase.evaluation.cases import Case
from multierase.evaluation.experiment import Backbone
from multierase.evaluation.judges.clip import Clip
from multierase.evaluation.weights import read_weights
from multierase.files import digest_file, digest_tensors

INCEPTION_BATCH = 32
IN_PROMPT = "clip_score_without_"  # before a kind of label


class Measure(Protocol):
    """One number for each picture.

    ``key``: its column. ``name``: the network and its version, which every result states.
    ``of_base``: whether it compares a picture with the base's own, of the same prompt and seed.
    """

    key: str
    name: str
    of_base: bool

    def __call__(
        self, images: torch.Tensor, cases: Sequence[Case], base: torch.Tensor | None
    ) -> Sequence[float | None]:
        """Measure ``(b, 3, h, w)`` pictures in [0, 1] of ``b`` cases; ``None`` where it cannot.

        ``base`` alike if ``of_base``.
        """


class ClipScore:
    """A hundred times the cosine of picture and prompt, as torchmetrics and MACE have it.

    That is arXiv 2104.08718 without its weight of 2.5 and its floor at 0.

    Args:
        without: a kind of label; then the text is the prompt without what it asks for of that kind,
            as in the in-prompt CLIP score of Six-CD (arXiv 2406.14855).
    """

    of_base = False

    def __init__(self, clip: Clip, without: str | None = None):
        self.clip, self.name, self.without = clip, clip.name, without
        self.key = "clip_score" if without is None else in_prompt(without)

    def __call__(
        self, images: torch.Tensor, cases: Sequence[Case], base: torch.Tensor | None
    ) -> Sequence[float | None]:
        texts = [self._text(case) for case in cases]
        there = [place for place, text in enumerate(texts) if text is not None]
        scores: list[float | None] = [None] * len(cases)
        if there:
            encoded = self.clip.of_texts([texts[place] for place in there])
            cosines = (self.clip.of_pictures(images[there]) * encoded).sum(dim=1)
            for place, score in zip(there, (100 * cosines).tolist(), strict=True):
                scores[place] = score

        return scores

    def _text(self, case: Case) -> str | None:
        return case.prompt if self.without is None else case.without.get(self.without)


def in_prompt(kind: str) -> str:
    """Return the column of the CLIP score with prompts without what is of this kind of label."""
    return f"{IN_PROMPT}{kind}"


class Lpips:
    """LPIPS (arXiv 1801.03924) to the base's picture, by torchmetrics.

    Raises:
        MissingExtra: if a package is missing.
        FileNotFoundError: if the backbone's weights are not at hand.
    """

    key, of_base = "lpips", True

    def __init__(self, backbone: Backbone, device: str | torch.device = "cpu"):
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            metric = LearnedPerceptualImagePatchSimilarity(backbone, normalize=True)
        except ImportError as error:
            raise MissingExtra(
                "LPIPS needs torchmetrics, pip install 'multierase[measures]', and the torchvision "
                f"that belongs to your torch: {error}; without --lpips, distances are those of the "
                "judge's features"
            ) from error
        except OSError as error:
            raise FileNotFoundError(
                f"LPIPS: the weights of {backbone!r} are not at hand: {error}"
            ) from error

        self._network, self._device = metric.net.to(device), device
        digest = digest_tensors(self._network.state_dict(), length=12)
        self.name = f"LPIPS {backbone}, sha256 {digest}"

    @torch.inference_mode()
    def __call__(
        self, images: torch.Tensor, cases: Sequence[Case], base: torch.Tensor | None
    ) -> list[float]:
        here, there = images.to(self._device), base.to(self._device)

        return self._network(here, there, normalize=True).flatten().float().cpu().tolist()


class Inception:
    """The 2048 features of which FID (arXiv 1706.08500) is made.

    The network is torchmetrics' and torch-fidelity's.

    Raises:
        MissingExtra: if a package is missing.
        WeightsFileError: for a file that does not hold this network's weights.
        FileNotFoundError: if there is no such file.
    """

    def __init__(self, weights: str, device: str | torch.device = "cpu"):
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights {path}; --fid takes torch-fidelity's Inception, "
                "pt_inception-2015-12-05-6726825d.pth"
            )

        self._network = _inception(path).requires_grad_(False).to(device)
        self._device = device
        self.name = f"FID's Inception-v3, sha256 {digest_file(path, length=12)}"

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(b, 2048)`` features of ``(b, 3, h, w)`` pictures in [0, 1]."""
        pixels = (images.clamp(0, 1) * 255).round().byte()

        features = []
        for batch in pixels.split(INCEPTION_BATCH):
            features.append(self._network(batch.to(self._device)).float().cpu())

        return torch.cat(features)


def _inception(path: Path) -> torch.nn.Module:
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        read_weights(path)  # first by our own reader, which runs no code
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    except ImportError as error:
        raise MissingExtra(
            "FID needs torchmetrics, pip install 'multierase[measures]', and torch-fidelity with "
            f"the torchvision that belongs to your torch: {error}; without --fid, Fréchet "
            "distances are those of the judge's features"
        ) from error
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsFileError(
            f"{path} is not torch-fidelity's Inception, which --fid takes: {error}"
        ) from error


def load_measures(
    clip: Clip | None = None,
    lpips: Backbone | None = None,
    device: str | torch.device = "cpu",
    without: Sequence[str] = (),
) -> list[Measure]:
    """Load the measures that are asked for; a missing one is an error, and nothing replaces it.

    Args:
        without: kinds of label that prompts are also given without, for the CLIP score.
    """
    measures: list[Measure] = []
    if clip is not None:
        measures += [ClipScore(clip), *(ClipScore(clip, kind) for kind in without)]
    if lpips is not None:
        measures.append(Lpips(lpips, device))

    return measures
