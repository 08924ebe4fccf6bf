"""Ways to merge increments, as others publish them: what ``peers.py`` sets beside the joint solve.

Each is a function from increments to what is added to the base's weights, by parameter. The package
has one way, the composer's joint solve, so it does not have these. Where a paper tunes a number for
every set, the one that is used here stands at the top, with where it is from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from multierase import Concept, EraseSettings, Increment, KeepList, Model, erase
from multierase.errors import ConceptRefused
from multierase.evaluation.erasers import replaced
from multierase.files import digest_bytes
from multierase.increments.value import Delta, changed
from multierase.prompts.concepts import LONGEST_NAME
from multierase.prompts.lists import not_about

Deltas = dict[str, torch.Tensor]
"""By parameter what is added to the base's weights."""
Kept = Mapping[str, torch.Tensor]
"""By stream the Gram matrix ``(d, d)`` of what is to stay."""
Merge = Callable[[Sequence[Increment], Kept], Deltas]

# By number of merged increments the λ and the share k that are kept of each, which CUIG's code
# (arXiv 2511.07970) has for styles, "best settings" of a sweep over four of each for every size.
TIES_SETTINGS = {
    1: (1.0, 1.0),
    2: (1.25, 0.8),
    3: (1.25, 0.4),
    4: (1.75, 0.8),
    5: (1.75, 0.4),
    6: (1.75, 0.4),
    7: (2.25, 0.4),
    8: (2.25, 0.8),
    9: (2.25, 0.6),
    10: (2.25, 0.4),
    11: (2.75, 0.4),
    12: (2.75, 0.4),
}
DROPPED = 0.5  # DARE's p: the paper goes from .1 to .9, and small models bear less
OFF_DIAGONAL = 0.9  # RegMean's α
ISOTROPIC = 1.0  # Iso-C's α
FUSION = 1.0  # MACE's λ of what is preserved: a token to keep weighs as much as one to erase
RIDGE = 1e-6  # of a regression, in units of its mean variance: only so that it can be solved
NOTHING = 1e-5  # of the largest singular value; below it a direction is rounding


@dataclass(frozen=True)
class Way:
    """A way to merge increments.

    Args:
        about: one line.
        paper: its address.
        merge: from increments to deltas by parameter.
        knobs: how many numbers its authors choose anew for each set, or number of increments.
    """

    about: str
    paper: str
    merge: Merge
    knobs: int = 0


def summed(increments: Sequence[Increment], kept: Kept, *, scale: float = 1.0) -> Deltas:
    """Return ``λ Σ_i Δ_i``: the plain sum, and task arithmetic (arXiv 2212.04089)."""
    return {name: scale * stack.sum(0) for name, stack in _stacks(increments)}


def ties(increments: Sequence[Increment], kept: Kept) -> Deltas:
    """Trim, elect a sign, and take the mean of what has it (TIES, arXiv 2306.01708).

    Of each ``λ Δ_i`` the largest share ``k`` of a tensor's numbers is left; a number's sign is that
    of their sum. Trimmed by tensor and scaled beforehand, as in CUIG's code.
    """
    # The paper's sweep ends at twelve.
    scale, share = TIES_SETTINGS[min(len(increments), max(TIES_SETTINGS))]
    deltas = {}
    for name, stack in _stacks(increments):
        trimmed = torch.stack([_trimmed(scale * one, share) for one in stack])
        elected = trimmed.sum(0).sign()
        agreeing = torch.where(trimmed.sign() == elected, trimmed, 0.0)
        count = (agreeing != 0).sum(0).clamp_min(1)
        deltas[name] = agreeing.sum(0) / count

    return deltas


def _trimmed(delta: torch.Tensor, share: float) -> torch.Tensor:
    """Keep the largest share of a tensor's numbers; the others become 0."""
    sizes = delta.abs()
    dropped = delta.numel() - int(share * delta.numel())
    if not dropped:
        return delta

    return torch.where(sizes > sizes.flatten().kthvalue(dropped).values, delta, 0.0)


def dare(increments: Sequence[Increment], kept: Kept) -> Deltas:
    """Drop a share ``p`` of each increment's numbers by chance, and sum (DARE, arXiv 2311.03099).

    The others are multiplied by ``1 / (1 − p)``. The chance depends on the increment and nothing
    else, so that a set is always merged alike.
    """
    deltas = {}
    for name, stack in _stacks(increments):
        total = torch.zeros_like(stack[0])
        for one, increment in zip(stack, increments, strict=True):
            made = f"{increment.concept}/{increment.provenance.seed}/{name}"
            generator = torch.Generator().manual_seed(int(digest_bytes(made, length=14), 16))
            stays = torch.rand(one.shape, generator=generator) >= DROPPED
            total += torch.where(stays, one, 0.0) / (1 - DROPPED)
        deltas[name] = total

    return deltas


def regmean(increments: Sequence[Increment], kept: Kept) -> Deltas:
    """Return ``(Σ_i Δ_i G_i) (Σ_i G_i)⁻¹`` (RegMean, arXiv 2212.09849).

    Each increment is to do on its own concept's tokens what it does alone. ``G_i`` is their Gram
    matrix, with all but the diagonal multiplied by ``α``. Added to the base's weights, this is the
    paper's mean of the weights themselves.
    """

    def shrunk(matrix: torch.Tensor) -> torch.Tensor:
        return OFF_DIAGONAL * matrix + (1 - OFF_DIAGONAL) * torch.diag(matrix.diag())

    return _regression(increments, shrunk, {})


def fused(increments: Sequence[Increment], kept: Kept) -> Deltas:
    """Return ``(Σ_i Δ_i G_i) (Σ_i G_i + λ G_kept)⁻¹``: MACE's fusion (arXiv 2403.06135, eq. 7).

    RegMean's regression with the tokens of what is to stay beside the concepts' own.
    """
    return _regression(increments, lambda matrix: matrix, kept)


def _regression(
    increments: Sequence[Increment], own: Callable[[torch.Tensor], torch.Tensor], kept: Kept
) -> Deltas:
    """Solve for what does on each concept's tokens as its increment does, and nothing to the kept.

    What does not read the text alone has no such tokens, and is summed.
    """
    readers = {name: stream for one in increments for name, stream in one.readers.items()}
    grams, totals = {}, {}
    for stream in set(readers.values()):
        factors = [increment.grams[stream].double() for increment in increments]
        grams[stream] = torch.stack([own(factor @ factor.T) for factor in factors])
        total = grams[stream].sum(0)
        if stream in kept:
            total = total + FUSION * kept[stream].double()
        totals[stream] = total + RIDGE * total.diag().mean() * torch.eye(len(total)).double()

    deltas = {}
    for name, stack in _stacks(increments):
        stream = readers.get(name)
        if stream is None:
            deltas[name] = stack.sum(0)
            continue
        moved = (stack.double() @ grams[stream]).sum(0)
        deltas[name] = torch.linalg.solve(totals[stream], moved, left=False).float()
    return deltas


def isotropic(increments: Sequence[Increment], kept: Kept) -> Deltas:
    """Give every direction of the sum the mean singular value (Iso-C, arXiv 2502.04959).

    Of the directions that the sum has: increments of a few directions leave the others empty, and
    what stands there is rounding.
    """
    deltas = {}
    for name, stack in _stacks(increments):
        total = stack.sum(0)
        left, sizes, right = torch.linalg.svd(total.double().flatten(1), full_matrices=False)
        rank = int((sizes > NOTHING * sizes[0]).sum())
        flat = ISOTROPIC * sizes[:rank].mean() if rank else 0.0
        deltas[name] = (flat * left[:, :rank] @ right[:rank]).float().reshape(total.shape)

    return deltas


WAYS = {
    "sum": Way("added as they are", "https://arxiv.org/abs/2303.07345", summed),
    "task arithmetic, 0.3": Way(
        "their sum times 0.3, the least that is usual",
        "https://arxiv.org/abs/2212.04089",
        partial(summed, scale=0.3),
        knobs=1,
    ),
    "task arithmetic, 0.6": Way(
        "their sum times 0.6; times 1 it is the sum",
        "https://arxiv.org/abs/2212.04089",
        partial(summed, scale=0.6),
        knobs=1,
    ),
    "TIES": Way(
        "trimmed, one sign elected, and the mean taken",
        "https://arxiv.org/abs/2306.01708",
        ties,
        knobs=2,
    ),
    "DARE": Way(
        "half of each dropped by chance, the others doubled, and summed",
        "https://arxiv.org/abs/2311.03099",
        dare,
        knobs=2,
    ),
    "RegMean": Way(
        "regression on each concept's own tokens", "https://arxiv.org/abs/2212.09849", regmean
    ),
    "Iso-C": Way(
        "every direction of the sum made as strong as the mean",
        "https://arxiv.org/abs/2502.04959",
        isotropic,
        knobs=1,
    ),
    "MACE's fusion": Way(
        "the same regression, with what is to stay", "https://arxiv.org/abs/2403.06135", fused
    ),
}


def _stacks(increments: Sequence[Increment]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each changed parameter with all its increments ``(n, ...)``; zeros where one has none.

    The order of the increments is that of their names, so that a set is always merged alike.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for increment in increments:
        shapes |= increment.shapes

    for name, shape in sorted(shapes.items()):
        found = []
        for increment in increments:
            there = name in increment.deltas
            found.append(increment.dense(name).float() if there else torch.zeros(shape))
        yield name, torch.stack(found)


class Merged:
    """Erases concepts by their increments, merged in one of these ways.

    Args:
        increments: from concept name to increment.
        keep: prompts to keep.
    """

    def __init__(
        self, model: Model, increments: Mapping[str, Increment], way: str, *, keep: KeepList
    ):
        self.model, self.increments, self.keep = model, increments, keep
        self.way = WAYS[way]

    def deltas(self, concepts: Sequence[str]) -> Deltas:
        """Return what erasing these concepts adds to the weights."""
        active = [self.increments[name] for name in sorted(concepts)]
        kept = {stream: self.keep.gram(stream, concepts) for stream in self.model.streams}

        return self.way.merge(active, kept) if active else {}

    @contextlib.contextmanager
    def erasing(self, *concepts: str) -> Iterator[None]:
        """Erase concepts for a ``with`` block."""
        parameters = self.model.parameters()
        with replaced(parameters, changed(parameters, self.deltas(concepts))):
            yield


class Anew:
    """Erases concepts by one edit for all of them, as the authors of closed forms do.

    Nothing is stored: another set is another edit. A set that the method refuses stays as it is.

    Args:
        method: a closed form's name in ``multierase.methods.METHODS``.
    """

    def __init__(self, model: Model, method: str):
        self.model, self.method = model, method

    def deltas(self, concepts: Sequence[str]) -> Mapping[str, Delta]:
        """Return what erasing these concepts adds to the weights."""
        known = self.model.known_prompts
        prompts: list[str] = []
        contexts: list[str] = []
        for name in sorted(concepts):
            concept = Concept(name).with_sentences(known)
            prompts += concept.prompts
            contexts += concept.contexts

        # The name of a set says nothing but what is erased.
        name = " and ".join(sorted(concepts))[:LONGEST_NAME].strip()
        together = Concept(name, tuple(prompts), tuple(contexts))
        settings = EraseSettings(known=False, keep=tuple(not_about(known, *concepts)))
        try:
            return erase(self.model, together, settings, method=self.method).deltas
        except ConceptRefused:
            return {}

    @contextlib.contextmanager
    def erasing(self, *concepts: str) -> Iterator[None]:
        """Erase concepts for a ``with`` block."""
        parameters = self.model.parameters()
        deltas = self.deltas(concepts) if concepts else {}
        with replaced(parameters, changed(parameters, deltas)):
            yield
