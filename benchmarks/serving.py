"""Requests that each erase another set of concepts: how many are answered in a second?

    python benchmarks/serving.py --out benchmarks/results/serving.json

Every request of a round has another set of five studios, at strengths that never come again. It is
answered by ``Server``, several requests in one batch; by ``Composer.set`` for each request; by
PEFT's ``set_adapters`` and by diffusers' hot swapping, with LoRAs of the very same increments; and
by loading the pipeline and its LoRAs anew. Two ceilings have one set for all requests: in batches,
and one request at a time. LoRAs can only be summed, so all are, and every way must make the same
pictures. ``Server`` is timed with the joint solve of a workspace as well: with sets of studios that
were solved before at other strengths, and with new ones.

All ways answer the same requests in one process, in turn, round after round; shares of a ceiling's
rate are taken within a round, by the process's own CPU time, so that other programs on the machine
do not count. Prints one JSON object on stdout and a table on stderr; resumable. It needs the extra
``bench``.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import diffusers
import torch
from harness import Results, begin, parser, quickened, trained
from safetensors.torch import save_file

from multierase import (
    Composer,
    Concept,
    EraseSettings,
    Increment,
    Library,
    Model,
    Request,
    SamplingSettings,
    Server,
    Workspace,
    load_base,
)
from multierase.emoji import STUDIOS, SUBJECTS
from multierase.generate import generate
from multierase.increments.value import Factors

BASE = "emoji"
ERASED = STUDIOS[:9:2]
STRENGTHS = (0.5, 1.0)  # least and most
CEILING, ALONE = "one set, in batches", "one set, one at a time"
OURS, JOINT, UNSOLVED = "Server", "Server, joint, solved before", "Server, joint, every set new"
SET = "Composer.set, one at a time"
PEFT, SWAPPED = "PEFT set_adapters, one at a time", "hotswap, one at a time"
RELOADED = "pipeline and LoRAs loaded, one at a time"
SAME = (OURS, PEFT, SWAPPED, RELOADED)  # make the pictures that ``SET`` makes
CLOSE = 1e-3  # pictures are in [0, 1]

Tensors = dict[str, torch.Tensor]
Answer = Callable[[Sequence[Request]], torch.Tensor]
"""Makes the pictures of some requests."""


def stream(concepts: Sequence[str], count: int, seed: int) -> list[Request]:
    """Return requests whose sets are all different, and not at the strengths of another seed."""
    draw, sets = random.Random(seed), set()
    while len(sets) < count:
        sets.add(tuple(sorted(draw.sample(concepts, draw.randrange(1, len(concepts))))))

    requests = []
    for index, chosen in enumerate(sorted(sets)):
        prompt = f"{draw.choice(SUBJECTS)} by {draw.choice(concepts)}"
        requests.append(Request(prompt, index, {name: draw.uniform(*STRENGTHS) for name in chosen}))

    return requests


def lora(increments: Mapping[str, Increment], strengths: Mapping[str, float]) -> Tensors:
    """Return the sum of a set's increments as one LoRA, exactly: its alpha is its rank."""
    tensors = {}
    for parameter in next(iter(increments.values())).deltas:
        downs, ups = [], []
        for concept, strength in strengths.items():
            delta = increments[concept].deltas[parameter]
            if not isinstance(delta, Factors):
                delta = Factors(delta, torch.eye(delta.shape[1]))
            downs.append(strength * delta.down)
            ups.append(delta.up)

        layer = parameter.removesuffix(".weight")
        tensors[f"{layer}.lora_A.weight"] = torch.cat(downs)
        tensors[f"{layer}.lora_B.weight"] = torch.cat(ups, dim=1)
    return tensors


class Ways:
    """The ways to answer requests.

    Args:
        model: the base, for the ways that sum increments.
        library: of increments that change layers that read the text alone.
        settings: of the pictures.
        folder: for files of LoRAs.
    """

    def __init__(
        self,
        model: Model,
        library: Library,
        settings: SamplingSettings,
        folder: Path,
    ):
        self.model, self.library, self.settings = model, library, settings
        self.increments = dict(library)
        self._sum = Composer(model, self.increments, solve="sum")
        self._solved, self._unsolved = self._workspace(), self._workspace()

        self._names = {concept: f"a{index}" for index, concept in enumerate(sorted(library))}
        self._folder = folder
        for concept, name in self._names.items():
            save_file(lora(self.increments, {concept: 1.0}), folder / f"{name}.safetensors")
        self._adapted, self._swapped = self._with_loras(), self._ready_to_swap()

    def all(self) -> dict[str, Answer]:
        """Return every way by its name."""
        return {
            CEILING: self.one_set,
            OURS: self._served(self._sum),
            JOINT: self._served(self._solved),
            UNSOLVED: self._served(self._unsolved),
            ALONE: self.one_set_one_by_one,
            SET: self.set_for_each,
            PEFT: self.adapters_for_each,
            SWAPPED: self.swap_for_each,
            RELOADED: self.load_for_each,
        }

    def prepare(self, requests: Sequence[Request]) -> None:
        """For the ways of that name, solve these sets at other strengths, and forget all others."""
        self._unsolved = self._workspace()
        with self._solved.composer.planned([dict.fromkeys(one.erased, 1.0) for one in requests]):
            pass

    def picture(self, model: Model, request: Request) -> torch.Tensor:
        """Make the picture of one request by a model as it stands."""
        return generate(model, [request.prompt], [request.seed], self.settings)

    def one_set(self, requests: Sequence[Request]) -> torch.Tensor:
        """Answer all requests with the first one's set, in batches."""
        self._sum.set(requests[0].erased)
        prompts, seeds = zip(*((one.prompt, one.seed) for one in requests), strict=True)
        pictures = generate(self.model, prompts, seeds, self.settings)
        self._sum.restore_all()

        return pictures

    def one_set_one_by_one(self, requests: Sequence[Request]) -> torch.Tensor:
        """Answer all requests with the first one's set, one at a time."""
        self._sum.set(requests[0].erased)
        pictures = [self.picture(self.model, request) for request in requests]
        self._sum.restore_all()

        return torch.cat(pictures)

    def set_for_each(self, requests: Sequence[Request]) -> torch.Tensor:
        """Compose the weights anew for each request."""
        pictures = []
        for request in requests:
            self._sum.set(request.erased)
            pictures.append(self.picture(self.model, request))
        self._sum.restore_all()

        return torch.cat(pictures)

    def adapters_for_each(self, requests: Sequence[Request]) -> torch.Tensor:
        """Activate each request's adapters, of those that are all loaded."""
        pictures = []
        for request in requests:
            self._activate(self._adapted, request.erased)
            pictures.append(self.picture(self._adapted, request))

        return torch.cat(pictures)

    def swap_for_each(self, requests: Sequence[Request]) -> torch.Tensor:
        """Put each request's set, as one LoRA, in the place of the one before."""
        pictures = []
        for request in requests:
            self._swapped.pipeline.load_lora_weights(
                lora(self.increments, request.erased), adapter_name="own", hotswap=True
            )
            pictures.append(self.picture(self._swapped, request))

        return torch.cat(pictures)

    def load_for_each(self, requests: Sequence[Request]) -> torch.Tensor:
        """Load the base and the LoRAs of each request from their files."""
        pictures = []
        for request in requests:
            model = self._with_loras(request.erased)
            self._activate(model, request.erased)
            pictures.append(self.picture(model, request))

        return torch.cat(pictures)

    def _served(self, source: Composer | Workspace) -> Answer:
        return partial(Server(source).generate, settings=self.settings)

    def _workspace(self) -> Workspace:
        """Open a workspace that has read library and keep-list, and solved nothing that is asked.

        Its base is its own: a composer forgets what it knows if another one writes the weights.
        """
        workspace = Workspace(self.library, base=BASE, device="cpu")
        workspace.composer.check(dict.fromkeys(self.library, 1.0))

        return workspace

    def _activate(self, model: Model, erased: Mapping[str, float]) -> None:
        names = [self._names[concept] for concept in erased]
        model.pipeline.set_adapters(names, list(erased.values()))

    def _with_loras(self, concepts: Sequence[str] | Mapping[str, float] = ()) -> Model:
        """Load the base, and the LoRAs of these concepts, or of all."""
        model = load_base(BASE, device="cpu")
        for concept in concepts or self.increments:
            name = self._names[concept]
            model.pipeline.load_lora_weights(
                self._folder, weight_name=f"{name}.safetensors", adapter_name=name
            )

        return model

    def _ready_to_swap(self) -> Model:
        """Load the base with one LoRA, which has room for all increments."""
        model, whole = load_base(BASE, device="cpu"), dict.fromkeys(self.increments, 1.0)
        tensors = lora(self.increments, whole)
        ranks = [len(tensor) for name, tensor in tensors.items() if ".lora_A." in name]
        model.pipeline.enable_lora_hotswap(target_rank=max(ranks))
        model.pipeline.load_lora_weights(tensors, adapter_name="own")

        return model


def one_round(ways: Ways, requests: Sequence[Request], start: int) -> dict[str, dict]:
    """Answer the requests in every way, the ``start``-th first.

    Returns:
        By way the seconds that passed and the process's own, and for those that must agree the
        largest difference from ``SET``.
    """
    answers = list(ways.all().items())
    start %= len(answers)
    seconds, own, pictures = {}, {}, {}
    for name, answer in answers[start:] + answers[:start]:
        began, began_own = time.perf_counter(), time.process_time()
        pictures[name] = answer(requests)
        seconds[name] = time.perf_counter() - began
        own[name] = time.process_time() - began_own

    apart = {name: (pictures[name] - pictures[SET]).abs().max().item() for name in SAME}
    far = {name: value for name, value in apart.items() if not value < CLOSE}
    assert not far, far
    assert (pictures[CEILING] - pictures[SET]).abs().max() > 0.1  # it is the sets that differ
    return {"seconds": seconds, "own seconds": own, "apart": apart}


def summarise(rounds: Sequence[dict[str, dict]], count: int) -> dict[str, dict]:
    """Return by way its rate, and its share of each ceiling's, over the rounds."""
    table: dict[str, dict] = {}
    for name in rounds[0]["seconds"]:
        seconds = statistics.median(found["seconds"][name] for found in rounds)
        table[name] = {"requests a second": round(count / seconds, 3)}
        for title, ceiling in (("of one set's rate", CEILING), ("of it, one at a time", ALONE)):
            shares = [
                found["own seconds"][ceiling] / found["own seconds"][name] for found in rounds
            ]
            spread = statistics.median(shares), min(shares), max(shares)
            table[name][title] = [round(value, 3) for value in spread]
        if name in SAME:
            table[name]["apart"] = max(found["apart"][name] for found in rounds)

    return table


def increments_of(model: Model, folder: Path | None, work: Path, quick: bool) -> Library:
    """Return the given library, or one of a few studios, trained if it is not there."""
    if folder is not None:
        return Library(folder)

    settings = quickened(EraseSettings()) if quick else EraseSettings()
    studios = ERASED[:3] if quick else ERASED
    place = work / "quick" if quick else work
    return trained(model, place, [(Concept(studio), settings) for studio in studios])


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument("--library", type=Path, help="folder of increments, in place of our own")
    options.add_argument(
        "--work", type=Path, default=Path("build/serving"), help="folder of our own increments"
    )
    options.add_argument("--requests", type=int, default=16)
    options.add_argument("--batch_size", type=int, default=8)
    options.add_argument("--rounds", type=int, default=9)
    arguments = options.parse_args()
    model, quick = begin(arguments, channels_last=False), arguments.quick
    count, repeats = (3, 1) if quick else (arguments.requests, arguments.rounds)
    settings = SamplingSettings(inference_steps=2 if quick else 25, batch_size=arguments.batch_size)
    library = increments_of(model, arguments.library, arguments.work, quick)
    concepts = sorted(library)
    if count > 2 ** len(concepts) - 2:
        options.error(f"{len(concepts)} concepts have fewer than {count} sets: give fewer requests")

    # At every LoRA diffusers says that the text tower has none, and PEFT that it is not the first.
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")
    results, rounds = Results(arguments.out), []
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(model, library, settings, Path(folder))
        one_round(ways, stream(concepts, 3, 0), 0)  # first contact, which no round pays
        for index in range(repeats):
            requests = stream(concepts, count, index + 1)
            ways.prepare(requests)
            found = results.get(
                f"round {index}", lambda asked=requests, start=index: one_round(ways, asked, start)
            )
            rounds.append(found)
            print(f"round {index}", summarise([found], count)[OURS], file=sys.stderr, flush=True)

    table = summarise(rounds, count)
    for name, row in table.items():
        print(f"{name:42s} {row}", file=sys.stderr)
    results.finish(
        {
            "benchmark": "serving",
            "concepts": concepts,
            "requests": count,
            "rounds": repeats,
            "threads": arguments.threads,
            "sampling": asdict(settings),
            "shares are": "median, least, most; by CPU time",
            "table": table,
        }
    )


if __name__ == "__main__":
    main()
