"""What is a concept's own in the text embedding, and what must not change: for training an increment, for composing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from multierase.concepts import TaggedPrompt
from multierase.text import TextEncoder

LEAST_RESIDUAL = 1e-3  # of a concept's norm beside what is kept exactly: with less it is refused
NUMERICAL_RANK = 1e-6  # of the largest singular value: below it a direction is float32's rounding


class ConceptRefused(ValueError):
    """Nothing of a concept is left to erase it by: what is to be kept exactly says all that it does.

    ``concept``: its name, where it has one.
    """

    concept: str = ""


@dataclass(frozen=True)
class Directions:
    """Directions of the text embedding to erase a concept along.

    ``basis``: ``B`` ``(d, r)``, ``r <= n``, float32, scaled so that a unit step along the first column moves the
    concept's tokens by one in the root mean square. ``residual``: the share of the tokens' norm that is left beside
    what is kept exactly.
    """

    basis: torch.Tensor
    residual: float


def gram(tokens: torch.Tensor) -> torch.Tensor:
    """``Eᵀ E`` ``(d, d)`` of ``(n, d)`` token embeddings, float64: all that projecting needs of a long keep-list."""
    tokens = tokens.double()
    return tokens.T @ tokens


def directions(
    own: torch.Tensor, exact: torch.Tensor, kept: torch.Tensor | None, *, tolerance: float, ridge: float
) -> Directions:
    """Directions of the text embedding along which the concept can be moved and little else moves.

    In ``to_k`` and ``to_v`` the input is the text embedding, so an increment ``Δ = A Bᵀ`` with ``Bᵀ E = 0`` leaves the
    tokens ``E`` exactly as they were; and on the concept's own prompts the gradient never leaves the span of their
    tokens anyway, so ``A`` is all there is to train. A short list can be kept exactly. A rich one spans everything, and
    is kept in the mean instead: with ``C`` the covariance of its tokens, the columns of ``B`` are the right singular
    vectors of the concept's tokens in the metric of ``C + ridge``, each as long as its singular value. The singular
    value says how much more a direction moves the concept than what is kept. Adam takes steps of one size in every
    coordinate; so it moves the weights in proportion to how much of a direction is the concept's own, instead of
    wearing down, in the hundreds of directions that say nothing of the concept, everything else that is said by them.

    Args:
        own: ``(n, d)`` token embeddings of the concept's prompts.
        exact: ``(m, d)`` token embeddings that must not change at all.
        kept: ``(d, d)`` Gram matrix of token embeddings that should change as little as can be; ``None`` for none.
        tolerance: directions of what is left of ``own`` whose singular value is less than this share of the largest
            are not used.
        ridge: in units of the kept tokens' mean variance.

    Raises:
        ConceptRefused: where nothing of the concept is left.
    """
    own, exact = own.double(), exact.double()
    _, scales, rows = torch.linalg.svd(exact, full_matrices=False)
    protected = rows[scales > NUMERICAL_RANK * scales[0]]
    free = torch.eye(own.shape[1], dtype=torch.float64) - protected.T @ protected
    metric = free
    if kept is not None:
        covariance = kept / kept.trace().clamp_min(torch.finfo(torch.float64).tiny) * len(kept)
        squares, vectors = torch.linalg.eigh(free @ covariance @ free)
        metric = free @ (vectors * (squares.clamp_min(0) + ridge).rsqrt()) @ vectors.T
    _, sizes, basis = torch.linalg.svd(own @ metric, full_matrices=False)
    rank = int((sizes > tolerance * sizes[0]).sum())
    residual = (torch.linalg.matrix_norm(own @ free) / torch.linalg.matrix_norm(own)).item()
    if residual < LEAST_RESIDUAL:
        raise ConceptRefused(
            "the concept's token embeddings lie in the span of those that are to be kept: nothing is left to erase it "
            f"by ({residual:.1e} of their norm); keep fewer prompts"
        )
    columns = metric @ basis[:rank].T * (sizes[:rank] / sizes[0])
    return Directions((columns * len(own) ** 0.5 / sizes[0]).float().contiguous(), residual)


@dataclass(frozen=True)
class KeepList:
    """Prompts that should change as little as can be, as Gram matrices: all that a solve needs of them.

    ``grams``: by the concepts (of a library) that prompts are about, in lower case, ``(d, d)`` float64.
    """

    grams: Mapping[frozenset[str], torch.Tensor]

    @classmethod
    def of(cls, text: TextEncoder, prompts: Iterable[TaggedPrompt], concepts: Iterable[str]) -> KeepList:
        """Of tagged prompts and the empty one; ``concepts`` are those that may ever be erased."""
        known = {concept.lower() for concept in concepts}
        groups: dict[frozenset[str], list[str]] = {frozenset(): [""]}
        for tagged in prompts:
            groups.setdefault(tagged.concepts & known, []).append(tagged.prompt)
        grams = {tags: gram(text(listed).flatten(0, 1).cpu()) for tags, listed in groups.items()}
        return cls(grams)

    def gram(self, off: Iterable[str]) -> torch.Tensor:
        """``(d, d)`` of all prompts that are about none of the concepts that are off; summed in the order of names, so
        that a list read from a file gives the bits of the list that was written."""
        erased = {concept.lower() for concept in off}
        return sum(self.grams[tags] for tags in sorted(self.grams, key=sorted) if not tags & erased)


def covariance(gram: torch.Tensor) -> torch.Tensor:
    """A Gram matrix in units of its mean variance, so that a long list weighs as much as a short one."""
    return gram.double() / gram.double().trace().clamp_min(torch.finfo(torch.float64).tiny) * len(gram)


Transfer = Callable[[torch.Tensor], torch.Tensor]  # Δ -> Δ T, row by row, of (n, d) float32


def _scaled(factor: torch.Tensor) -> torch.Tensor:
    """The ``(d, r)`` factor of ``covariance`` of a Gram matrix."""
    factor = factor.double()
    return factor * (len(factor) / factor.square().sum().clamp_min(torch.finfo(torch.float64).tiny)).sqrt()


def joint_transfers(
    own: Mapping[str, torch.Tensor], kept: Iterable[torch.Tensor], *, keep_weight: float, ridge: float
) -> dict[str, Transfer]:
    """``T_i`` ``(d, d)`` with ``Σ_i s_i Δ_i T_i`` the weights closest to what each increment does to its own tokens,
    while doing little to the kept ones.

    The minimum of ``Σ_i ‖ΔW E_i − s_i Δ_i E_i‖² + κ n ‖ΔW E_kept‖² + λ‖ΔW‖²`` is ``ΔW = Σ_i s_i Δ_i C_i M⁻¹`` with
    ``M = Σ_i C_i + κ n C_kept + λ``: one ``(d, d)`` factorisation for all layers, whatever the strengths. The kept side
    grows with the number ``n`` of erased concepts: with a fixed weight, forty of them outweigh it. The ridge stands for
    what no list names: without it a word that is in none is taken for whatever word it is nearest to.

    Args:
        own: per erased concept ``(d, r)`` ``F`` with ``F Fᵀ`` the Gram matrix of its tokens.
        kept: Gram matrices ``(d, d)`` of what is kept; each list weighs the same.
        keep_weight: ``κ``, of the kept side beside all erased concepts together.
        ridge: ``λ``, in units of the tokens' mean variance.

    Raises:
        ValueError: for a singular system.
    """
    factors = {name: _scaled(factor) for name, factor in own.items()}
    every = torch.cat(list(factors.values()), dim=1)
    total = every @ every.T + ridge * torch.eye(len(every), dtype=torch.float64)
    lists = [covariance(matrix) for matrix in kept]
    if lists:
        total = total + keep_weight * len(factors) * sum(lists) / len(lists)
    cholesky, failed = torch.linalg.cholesky_ex(total)
    if failed:
        raise ValueError(f"the joint solve is singular with ridge {ridge}: give a larger one, such as 1e-2")
    # C_i M⁻¹ = F (M⁻¹ F)ᵀ: as many columns as the concept has tokens, not as there are dimensions.
    solved = torch.cholesky_solve(every, cholesky).T.float().split([factor.shape[1] for factor in factors.values()])
    return {name: _through(f.float(), g) for (name, f), g in zip(factors.items(), solved, strict=True)}


def _through(left: torch.Tensor, right: torch.Tensor) -> Transfer:
    return lambda rows: (rows @ left) @ right


def projecting_transfers(
    own: Mapping[str, torch.Tensor], kept: Iterable[torch.Tensor], *, tolerance: float
) -> dict[str, Transfer]:
    """``T_i = I − Π_i``: each increment with what the kept and the other erased concepts say cut out of it.

    ``Π_i`` projects on the directions in which those tokens' root mean square is more than ``tolerance`` of the
    largest. Unlike ``joint_transfers`` it knows only all or nothing: a rich list leaves little of an increment.
    Arguments as there.
    """
    scaled = {name: _scaled(factor) for name, factor in own.items()}
    each = {name: factor @ factor.T for name, factor in scaled.items()}
    everything = sum([covariance(matrix) for matrix in kept], sum(each.values()))
    transfers = {}
    for name, matrix in each.items():
        squares, vectors = torch.linalg.eigh(everything - matrix)
        taken = vectors[:, squares > max(tolerance**2 * squares[-1].item(), 0)].float()
        transfers[name] = _without(taken)
    return transfers


def _without(taken: torch.Tensor) -> Transfer:
    return lambda rows: rows - (rows @ taken) @ taken.T
