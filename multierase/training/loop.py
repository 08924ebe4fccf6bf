"""The one training loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from multierase.errors import Cancelled, DeviceError
from multierase.files import plain
from multierase.increments.value import Increment
from multierase.models.model import Model
from multierase.training.checkpoint import load_checkpoint, save_checkpoint
from multierase.training.delta import predictions, together
from multierase.training.erasure import Erasure
from multierase.training.plan import Plan
from multierase.training.trajectories import Batch
from multierase.training.watching import Progress, Watch

CHECKPOINT_STEPS = 16  # at least, between two checkpoints
MOST_NAMED = 4  # concepts on the progress bar, and their degrees


def train(
    model: Model,
    plans: Sequence[Plan],
    method: str,
    *,
    simultaneous: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    watch: Watch | None = None,
) -> list[Increment]:
    """Train one increment for each plan in one run; each ends by its own early stop.

    They share the batches of the denoiser and nothing else: an increment is that of a run of its
    own, up to the rounding of larger batches.

    Args:
        model: the frozen base; it is the same afterwards.
        plans: with the same settings, except for what is kept.
        method: name of the method, for the provenance.
        simultaneous: train each under the increments of all instead (SepME's simultaneous
            optimisation, arXiv 2402.05947, eq. 34-36).
        checkpoint: file to keep the run's state in. It is still there at the end, so that nothing
            is lost if the increments cannot be saved; whoever has saved them removes it.
        resume: go on from ``checkpoint`` if it is there. The increments are those of an
            uninterrupted run, to the bit on the same machine with as many threads.
        progress: show a progress bar on stderr.
        watch: told of each step; the run ends early if it says so.

    Raises:
        Cancelled: if ``watch`` has ended the run; the checkpoint, if there is one, has its state.
        ValueError: for plans that cannot share a run.
        CheckpointError: for a checkpoint that is damaged, or belongs to another run.
        FloatingPointError: if the training diverges.
        DeviceError: if a GPU has too little memory.
    """
    require_one_run(plans, simultaneous)
    model.reset_peak_memory()
    erasures = [Erasure(model, plan, method) for plan in plans]
    path = None if checkpoint is None else Path(checkpoint)
    if resume and path is not None and path.exists():
        load_checkpoint(erasures, path)

    saving = plans[0].settings.gradient_checkpointing
    try:
        with model.checkpointed() if saving else contextlib.nullcontext():
            _run(erasures, erasures if simultaneous else [], path, progress, watch)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "the GPU has too little memory: try a smaller --batch_size and --sampling_batch, "
            "--gradient_checkpointing true, or --dtype float16"
        ) from error

    return [erasure.increment() for erasure in erasures]


def require_one_run(plans: Sequence[Plan], simultaneous: bool) -> None:
    """Raise ``ValueError`` unless these plans can share a run."""
    names = [plan.concept.name for plan in plans]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"give each concept once: {names}")

    settings = plans[0].settings
    for plan in plans:
        if replace(plan.settings, keep=settings.keep, siblings=settings.siblings) != settings:
            raise ValueError(
                "concepts that share a run must have the same settings, except for what they keep"
            )

    exact = all(name in plan.readers for plan in plans for name in plan.parameters)
    if len(names) > 1 and not exact and not simultaneous:
        raise ValueError(
            f"scope {settings.scope!r} changes weights that all samples of a batch share: erase "
            "one concept at a time"
        )


def descend(
    erasures: Sequence[Erasure], batches: Sequence[Batch], under: Sequence[Erasure] = ()
) -> None:
    """Take one optimiser step of each erasure.

    Args:
        under: all that are trained simultaneously, under each other's increments, the finished ones
            too. They are balanced as in SepME, eq. 35: ``Σ η_i L_i`` with
            ``η_i = max_k |L_k| / |L_i|``.

    Raises:
        FloatingPointError: if a loss is not finite.
    """
    # Measured once for each erasure: the cost is that of its scope and model.
    for erasure, batch in zip(erasures, batches, strict=True):
        if erasure.evaluations.step_cost == 0:
            erasure.measure_step(batch)

    pairs = list(zip(erasures, batches, strict=True))
    inputs = [erasure.inputs(batch) for erasure, batch in pairs]
    for erasure in erasures:
        erasure.optimizer.zero_grad()

    students = [erasure.student for erasure in erasures]
    with predictions(students, inputs, [erasure.student for erasure in under]) as found:
        losses = [
            erasure.loss(batch, eps) for (erasure, batch), eps in zip(pairs, found, strict=True)
        ]
        tiny = torch.finfo(torch.float32).tiny
        sizes = [loss.own.detach().abs().clamp_min(tiny) for loss in losses]
        balance = [max(sizes) / size if under else 1.0 for size in sizes]
        weighted = [
            share * loss.own + loss.others for share, loss in zip(balance, losses, strict=True)
        ]
        sum(weighted[1:], weighted[0]).backward()

    for erasure, loss in zip(erasures, losses, strict=True):
        erasure.optimizer.step()
        erasure.observe(loss)


def _run(
    erasures: Sequence[Erasure],
    under: Sequence[Erasure],
    checkpoint: Path | None,
    progress: bool,
    watch: Watch | None,
) -> None:
    settings, most = erasures[0].settings, erasures[0].plan.steps
    names = plain(_named([erasure.concept.name for erasure in erasures]))
    step = saved = max(erasure.step for erasure in erasures)
    going_on = True

    with tqdm(total=most, initial=step, desc=f"erasing {names}", disable=not progress) as bar:
        while going_on and step < most and not _all_finished(erasures):
            steps = range(step, min(step + settings.steps_ahead, most))
            for _ in _learn(erasures, steps, under):
                step += 1
                _show(bar, erasures)
                if watch is not None and not watch(Progress.of(erasures)):
                    going_on = False

            # Between batches that are sampled together, so that a resumed run samples the same.
            ended = _all_finished(erasures) or step >= most or not going_on
            if checkpoint is not None and (ended or step >= saved + CHECKPOINT_STEPS):
                save_checkpoint(erasures, checkpoint)
                saved = step

    if not (going_on or _all_finished(erasures) or step >= most):
        raise Cancelled(f"erasing {names} was ended at step {step} of {most}")


def _named(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are: a line has room for no more."""
    first = ", ".join(names[:MOST_NAMED])
    more = len(names) - MOST_NAMED

    return f"{first} and {more} more" if more > 0 else first


def _all_finished(erasures: Sequence[Erasure]) -> bool:
    return all(erasure.finished for erasure in erasures)


def _show(bar: tqdm, erasures: Sequence[Erasure]) -> None:
    bar.update()
    shown = [f"{erasure.degree.average:.2f}" for erasure in erasures]
    degrees = ", ".join(shown[:MOST_NAMED]) + ", ..." * (len(shown) > MOST_NAMED)
    bar.set_postfix(degree=degrees, refresh=False)


def _learn(erasures: Sequence[Erasure], steps: range, under: Sequence[Erasure]) -> Iterator[None]:
    """Take steps whose latents are sampled together; fewer, if all erasures finish."""
    learning = [erasure for erasure in erasures if not erasure.finished]
    began = time.perf_counter()
    batches = [_batches(erasure, steps, under) for erasure in learning]

    for index in range(len(steps)):
        left, examples = [], []
        for erasure, own in zip(learning, batches, strict=True):
            if not erasure.finished:
                left.append(erasure)
                examples.append(own[index])
        if not left:
            break
        descend(left, examples, under)
        yield

    for erasure in learning:
        erasure.seconds += (time.perf_counter() - began) / len(learning)


def _batches(erasure: Erasure, steps: range, under: Sequence[Erasure]) -> list[Batch]:
    weights = {}
    if erasure.settings.schedule == "student":
        with torch.no_grad():
            weights = together([each.student for each in under or [erasure]])

    return erasure.examples.batches(steps, weights)
