"""What ESD and SepME share: concepts are grouped into runs as large as a batch allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from multierase.errors import ConceptRefused
from multierase.increments.value import Increment
from multierase.methods import Order, Refusal
from multierase.models.model import Model
from multierase.models.weights import require_free
from multierase.prompts.concepts import Concept
from multierase.prompts.lists import not_about
from multierase.training.adversary import adversarial, searchable, with_found
from multierase.training.checkpoint import checkpoint_path
from multierase.training.loop import require_one_run, train
from multierase.training.plan import Objective, Plan, Planner


def produce(
    model: Model, order: Order, objective: Objective, method: str
) -> Iterator[Increment | Refusal]:
    """Train the concepts of an order; see ``multierase.methods.Produce``.

    Raises:
        ModelHeld: if concepts are erased on the model now, so that it is not the base.
    """
    require_free(model)
    # Siblings are sought among the run's own concepts too, so that it does not matter how many of
    # them are erased already when a run that was cut off goes on.
    names = [concept.name for concept in order.concepts]
    planner = Planner(
        model,
        order.settings,
        objective,
        library=sorted({*order.library, *names}),
        folder=order.cache,
        progress=order.progress,
    )
    # All of them first: what is wrong with the last concept is said before the first is trained.
    groups = [_resolved(planner, order, group) for group in _groups(planner, order)]
    for plans, _ in groups:
        if plans:
            require_one_run(plans, order.simultaneous)
        for plan in plans if planner.settings.robust else ():
            searchable(model, plan)

    for plans, refusals in groups:
        yield from refusals
        if not plans:
            continue

        names = [plan.concept.name for plan in plans]
        paths: list[Path | None] = []
        for number in range(planner.settings.robust + 1):
            path = None
            if order.checkpoints is not None:
                path = checkpoint_path(order.checkpoints, names, number)
            paths.append(path)
            increments = train(
                model,
                plans,
                method,
                simultaneous=order.simultaneous,
                checkpoint=path,
                resume=order.resume,
                progress=order.progress,
                watch=order.watch,
            )
            if number < planner.settings.robust:
                plans = _harder(planner, order, plans, increments)
        yield from increments

        # The caller saves each result before it asks for the next one.
        for path in paths:
            if path is not None:
                path.unlink(missing_ok=True)


def _harder(
    planner: Planner, order: Order, plans: Sequence[Plan], increments: Sequence[Increment]
) -> list[Plan]:
    """Return the plans with sentences that the increments do not erase yet.

    Each begins anew, with the cost of what was before.
    """
    together = [plan.concept.name for plan in plans] if order.simultaneous else []
    harder = []
    for plan, increment in zip(plans, increments, strict=True):
        found = adversarial(planner.model, plan, increment, planner.settings.seed)
        keep = not_about(order.keep, plan.concept.name, *together)
        planned = planner.plan(with_found(plan.concept, found), keep, together)
        cost = increment.provenance.cost
        before = cost.evaluations if cost else 0
        spent = planned.spent + before + found.evaluations
        harder.append(replace(planned, spent=spent, given=plan.given))

    return harder


def _groups(planner: Planner, order: Order) -> list[Sequence[Concept]]:
    """Divide the concepts into runs.

    All of them, if they are trained under one another; as many as a batch may hold, if they change
    nothing but layers that read the text alone; else each alone.
    """
    if order.simultaneous:
        return [order.concepts]

    settings, model = planner.settings, planner.model
    shared = all(name in model.readers for name in model.scope_parameters(planner.scope))
    size = max(1, settings.sampling_batch // settings.batch_size) if shared else 1

    starts = range(0, len(order.concepts), size)
    return [order.concepts[start : start + size] for start in starts]


def _resolved(
    planner: Planner, order: Order, group: Sequence[Concept]
) -> tuple[list[Plan], list[Refusal]]:
    """Return the plans of a run, and the concepts that are refused."""
    refusals: list[Refusal] = []
    while True:
        plans = []
        together = [concept.name for concept in group] if order.simultaneous else []
        for concept in group:
            keep = not_about(order.keep, concept.name, *together)
            try:
                plans.append(planner.plan(concept, keep, together))
            except ConceptRefused as error:
                refusals.append(Refusal(concept.name, str(error)))

        if len(plans) == len(group) or not order.simultaneous:
            return plans, refusals
        # Those that are left are trained beside fewer.
        refused = {refusal.concept for refusal in refusals}
        group = [concept for concept in group if concept.name not in refused]
