"""What a request leaves open: the kind of concept, and what a kind decides."""

from __future__ import annotations

from dataclasses import dataclass, replace

from multierase.models.model import Model
from multierase.prompts.kind import Kind, load_kind
from multierase.training.settings import EraseSettings

AUTO_KIND, DEFAULT_KIND, NO_KIND = "auto", "artist", "none"
NOTHING = Kind(NO_KIND, "no sentences", {}, ())
DEFAULT_ETA = 3.0


@dataclass(frozen=True)
class Course:
    """How a family's training goes, unless the settings say otherwise.

    Args:
        start_at, steps: as in ``EraseSettings``.
        learning_rate: of separated parameters from that start; ``None`` for a share of the start.
    """

    start_at: float
    steps: int
    learning_rate: float | None = None


# By the scope in which every parameter reads the text alone. Keys and values act on a prediction
# nearly as they are; of a transformer's first layers much is made, and what the closed form does to
# other prompts is made more of, too (benchmarks/transformer_scopes.py).
COURSES = {
    "esd-x-strict": Course(start_at=-1.0, steps=40),
    "text-input": Course(start_at=1.0, steps=100, learning_rate=0.4),
}
DENSE_MOST = 10**9  # numbers; an increment of more takes two gigabytes in float16
DEFAULT_RANK = 16


def kind_of(model: Model, name: str) -> Kind | None:
    """Return a kind by its name, for a base that may bring its own; ``None`` for ``none``.

    Raises:
        UsageError: for a kind that does not exist.
    """
    if name == AUTO_KIND:
        own = sorted(model.kinds.glob("*.yaml")) if model.kinds else []
        name = str(own[0]) if own else DEFAULT_KIND

    return None if name == NO_KIND else load_kind(name, model.kinds)


def with_defaults(settings: EraseSettings, kind: Kind | None, model: Model) -> EraseSettings:
    """Fill in what the user has left to the kind and to the model's family."""
    scope = settings.scope or model.scope_of_kind(kind.scope if kind else None)
    eta, stop_at = settings.eta, settings.stop_at
    if eta is None:
        eta = DEFAULT_ETA if kind is None or kind.eta is None else kind.eta
        # The degree falls to -eta at the most.
        if stop_at is not None and settings.stop_on != "correlation":
            stop_at *= eta / DEFAULT_ETA
    course, steps, rate = COURSES[model.exact_scope], settings.steps, settings.learning_rate
    start_at = course.start_at if settings.start_at is None else settings.start_at
    if rate is None and start_at == course.start_at:
        rate = course.learning_rate
    name = kind.name if kind else NO_KIND
    if kind and settings.kind not in (AUTO_KIND, kind.name):
        name = settings.kind

    rank = settings.rank
    if rank is None:
        # An unknown scope is refused later, with what there is.
        known = scope in model.scopes
        rank = default_rank(model, scope, decouple=settings.decouple) if known else 0
    return replace(
        settings,
        kind=name,
        scope=scope,
        eta=eta,
        stop_at=stop_at,
        rank=rank,
        start_at=start_at,
        steps=course.steps if steps is None else steps,
        learning_rate=rate,
    )


def default_rank(model: Model, scope: str, *, decouple: bool = True) -> int:
    """Return 0 unless what trains freely is too large to be stored whole."""
    here, separated = model.parameters(), model.readers if decouple else {}
    free = [name for name in model.scope_parameters(scope) if name not in separated]
    return DEFAULT_RANK if sum(here[name].numel() for name in free) >= DENSE_MOST else 0
