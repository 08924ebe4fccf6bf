"""Ring-A-Bell (arXiv 2310.10012): a prompt that the text tower takes for the concept."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from multierase.errors import WriteError
from multierase.evaluation.attacks.attack import Aim, Attempt, Running, Target, without
from multierase.evaluation.cases import Case
from multierase.files import digest_tensors, replacing
from multierase.models.soft_text import SoftText

STRENGTH = 3.0  # η, the paper's for nudity
CROSSOVER, MUTATION = 0.5, 0.25  # shares, the paper's

logger = logging.getLogger(__name__)


def begin(target: Target, aim: Aim) -> Running:
    """Return the attack, which asks the text tower alone: its prompts serve every erasure.

    The concept is ``c = mean E(sentence) − E(sentence without it)`` over the cases, all tokens of a
    prompt. A genetic search looks for ``K`` tokens with the least ``‖E(tokens) − (E(prompt) + η c)
    ‖²`` (eq. 3 and 4).
    """
    text = SoftText(target.model)
    prompts = [case.prompt for case in aim.cases]
    bare = [without(prompt, aim.concept) for prompt in prompts]
    concept = target.encode(prompts)["tokens"].float() - target.encode(bare)["tokens"].float()
    concept = concept.mean(dim=0)

    def attempts(case: Case) -> Iterator[Attempt]:
        wanted = target.encode([aim.asked[case.number]])["tokens"][0].float() + STRENGTH * concept
        ids = _remembered(text, wanted, aim, case)
        yield Attempt(text.encode_ids(ids), text.text(ids), ids=ids)

    return attempts


def search(text: SoftText, wanted: torch.Tensor, aim: Aim, generator: torch.Generator) -> list[int]:
    """Return the tokens that a genetic search finds nearest to a wanted ``(l, d)`` encoding.

    Each generation keeps its better half. The other half are their children: some cut from two
    parents, some with one token drawn anew.
    """
    budget = aim.budget
    ordinary = text.ordinary.nonzero()[:, 0].cpu()
    length, half = min(budget.tokens, text.most), max(budget.candidates // 2, 1)

    def drawn(*shape: int) -> torch.Tensor:
        return ordinary[torch.randint(len(ordinary), shape, generator=generator)]

    parents = drawn(half, length)
    far = _distances(text, parents, wanted)
    for _ in range(budget.steps):
        mates = parents[torch.randint(half, [half], generator=generator)]
        cuts = torch.randint(1, max(length, 2), [half, 1], generator=generator)
        crossed = torch.rand(half, 1, generator=generator) < CROSSOVER
        children = torch.where(crossed & (torch.arange(length) >= cuts), mates, parents)

        mutated = torch.rand(half, 1, generator=generator) < MUTATION
        # A child that is its parent again would be no new one.
        mutated |= (children == parents).all(dim=1, keepdim=True)
        at = torch.randint(length, [half, 1], generator=generator)
        children = torch.where(mutated & (torch.arange(length) == at), drawn(half, 1), children)

        people = torch.cat([parents, children])
        distances = torch.cat([far, _distances(text, children, wanted)])
        nearest = distances.argsort(stable=True)[:half]
        parents, far = people[nearest], distances[nearest]

    return parents[0].tolist()


@torch.no_grad()
def _distances(text: SoftText, people: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    vectors = text.table[people.to(text.table.device)]
    said = text.encode(vectors)["tokens"].float()

    return (said - wanted.to(said)).square().sum(dim=(1, 2)).cpu()


def _remembered(text: SoftText, wanted: torch.Tensor, aim: Aim, case: Case) -> list[int]:
    """Return a search's tokens; they are kept in a file by what was sought, and of which tower."""
    sought = {"wanted": wanted, "table": text.table, "begins": text.encode_ids([])["tokens"]}
    key = digest_tensors(sought, prefix=repr((aim.seed, aim.budget)).encode())
    path = None if aim.cache is None else aim.cache / f"ring-a-bell-{key[:20]}.json"
    kept = None if path is None else _kept(path, key, len(text.table))
    if kept is not None:
        return kept

    # By the prompt and not the case: cases of one prompt have one file.
    ids = search(text, wanted, aim, aim.generator("ring-a-bell", aim.asked[case.number]))
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                found = {"key": key, "text": text.text(ids), "ids": ids}
                temporary.write_text(json.dumps(found), encoding="utf-8")
        except (WriteError, OSError) as error:
            logger.warning("an attack's prompt could not be kept, and is searched again: %s", error)

    return ids


def _kept(path: Path, key: str, count: int) -> list[int] | None:
    """Return the tokens in a file, of ``count``; ``None`` where there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ids = found["ids"]
        if found["key"] == key and ids and all(index in range(count) for index in ids):
            return [int(index) for index in ids]
    except (OSError, ValueError, KeyError, TypeError):
        pass

    return None
