"""How an increment was made: typed, and checked when it is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multierase.models.scopes import EVALUATIONS_OF_FORMAT_1, FAMILIES, FAMILY_OF_FORMAT_1
from multierase.prompts.concepts import check_name

ARITHMETIC = "arithmetic"
SIDES = ("siblings", "kept", "general")  # of a certificate: what was to stay


@dataclass(frozen=True)
class Cost:
    """What making it took.

    Args:
        evaluations: evaluations of the denoiser on one latent; a training step counts what its
            forward and backward cost beside a forward.
        seconds: of the training alone.
        peak_memory_mib: the GPU's, or the whole process's on the CPU.
    """

    evaluations: int
    seconds: float
    peak_memory_mib: int


@dataclass(frozen=True)
class Stop:
    """How the training ended.

    Args:
        reason: ``erased``, if the early stop ended it, or ``steps``.
        steps: steps that were taken.
        degree: the erasure degree's moving average at the end.
        degrees: the erasure degree of every step.
    """

    reason: str
    steps: int
    degree: float
    degrees: tuple[float, ...] = ()


@dataclass(frozen=True)
class Separation:
    """What the increment leaves as it was; derived from what was done, not from what was asked.

    Args:
        kept_exactly: prompts whose predictions the increment does not change at all. Empty if it
            changes any parameter that does not read the text alone.
        kept_in_mean: number and digest of the prompts that change as little as can be.
        directions: by stream the ``rank`` and the ``residual`` of the directions that its readers
            were trained along; empty if they were trained freely.
    """

    kept_exactly: tuple[str, ...] = ()
    kept_in_mean: Mapping[str, Any] | None = None
    directions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """How an increment was made.

    Args:
        concept: the concept's name.
        prompts, contexts, anchor, erase_from: see ``multierase.Concept``.
        method: what made it: a name in ``multierase.methods.METHODS``, ``arithmetic`` for a sum or
            multiple of increments, ``unknown`` for a file that does not say.
        scope: which parameters it could change; empty if no scope was asked for.
        settings: all of the method's settings.
        seed: seed of everything random; ``None`` if nothing was.
        version: version of multierase.
        cost, stop, separation, certificate: see there; ``None`` if they do not apply.
    """

    concept: str
    prompts: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    anchor: str = ""
    erase_from: str | None = None
    method: str = "unknown"
    scope: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    version: str = ""
    cost: Cost | None = None
    stop: Stop | None = None
    separation: Separation | None = None
    certificate: Mapping[str, Any] | None = None

    def derived(self, concept: str) -> Provenance:
        """Return the provenance of a sum or a multiple: only what is still true of it."""
        return Provenance(
            concept=concept,
            prompts=self.prompts,
            contexts=self.contexts,
            anchor=self.anchor,
            erase_from=self.erase_from,
            method=ARITHMETIC,
            scope=self.scope,
            version=self.version,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return _as_json(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, stored: object) -> Provenance:
        """Read what ``as_dict`` gives.

        Raises:
            ValueError: for a missing or unknown entry, or a value of another type.
        """
        entries = _require(stored, dict, "provenance")
        require_known(entries, _names(cls), "provenance")
        take = Taker(entries, "provenance")

        return cls(
            concept=check_name(take("concept", str)),
            prompts=take.texts("prompts"),
            contexts=take.texts("contexts"),
            anchor=take("anchor", str),
            erase_from=take.optional("erase_from", str),
            method=take("method", str),
            scope=take("scope", str),
            settings=take("settings", dict),
            seed=take.optional("seed", int),
            version=take("version", str),
            cost=take.optional("cost", _cost),
            stop=take.optional("stop", _stop),
            separation=take.optional("separation", _separation),
            certificate=take.optional("certificate", _certificate),
        )

    @classmethod
    def from_format_1(cls, info: object) -> Provenance:
        """Read the entry ``info`` of a file of format 1, in which every key but one may be absent.

        Raises:
            ValueError: for a value of another type.
        """
        entries = _require(info, dict, "info")
        take = Taker({**_ABSENT_IN_FORMAT_1, **entries}, "info")
        settings = take("settings", dict)
        method = {"esd": "esd", "correlation": "sepme"}.get(settings.get("objective"), "unknown")
        trained = "steps" in entries

        return cls(
            concept=check_name(take("concept", str)),
            prompts=take.texts("prompts"),
            contexts=take.texts("contexts"),
            anchor=take("anchor", str),
            erase_from=take.optional("erase_from", str),
            method=method,
            scope=take("scope", str),
            settings=settings,
            seed=take.optional("seed", int),
            version=take("version", str),
            cost=_cost_from(take, EVALUATIONS_OF_FORMAT_1) if trained else None,
            stop=_stop_of_format_1(take) if trained else None,
            separation=_separation_of_format_1(take) if trained else None,
        )


_ABSENT_IN_FORMAT_1: dict[str, Any] = {
    "concept": "unnamed",
    "prompts": [],
    "contexts": [],
    "anchor": "",
    "erase_from": None,
    "scope": "",
    "settings": {},
    "seed": None,
    "version": "",
    "decoupled_from": None,
    "rank": None,
    "residual": None,
}


def in_words(certificate: Mapping[str, Any]) -> str:
    """Return a certificate in plain words; see ``multierase.training.certificate``."""
    if not certificate.get("sentences"):
        return "no sentence was tried"

    words = [f"gone in {certificate['gone']:.0%} of {certificate['sentences']} unseen sentences"]
    for side in SIDES:
        if side in certificate:
            words.append(f"{side} move by {certificate[side]['moved']:.0%}")

    return "; ".join(words)


def set_in_words(certificate: Mapping[str, Any]) -> str:
    """Return the certificate of a set that was exported in plain words.

    Args:
        certificate: ``gone``, a share, if something is erased; ``moved``, a share by side.
    """
    words = []
    if "gone" in certificate:
        words.append(f"gone in {certificate['gone']:.0%} of unseen sentences")
    words += [f"{side} move by {share:.0%}" for side, share in certificate["moved"].items()]

    return "; ".join(words)


def step_in_words(step: Mapping[str, Any]) -> str:
    """Return a step of a history in plain words; of an import all that matters to a user."""
    if step["step"] != "imported":
        return str(step["step"])

    words = [f"imported from {step.get('file')}: {step.get('from')}"]
    concepts, kept = step.get("concepts"), step.get("effect_kept")
    count = len(concepts) if isinstance(concepts, list) else 1
    if count > 1:
        words.append(f"a set of {count} concepts")
    if step.get("refined"):
        words.append(f"relative to {step['refined']}, which was changed for a whole set")
    if step.get("projected"):
        words.append("this one's part alone" if count > 1 else "in its own directions alone")
        if isinstance(kept, float):
            words.append(f"with {kept:.0%} of the effect on its tokens")
    elif not step.get("separable", True):
        words.append("not separable")

    return ", ".join(words)


class Taker:
    """Takes entries of known types from a JSON object."""

    def __init__(self, entries: Mapping[str, Any], where: str):
        self._entries, self._where = entries, where

    def __call__(self, key: str, kind: Callable[[Any], Any] | type) -> Any:
        """Return the entry as ``kind``, a type or a function that checks it."""
        if key not in self._entries:
            raise ValueError(f"{self._where} has no entry {key!r}")

        value = self._entries[key]
        return _require(value, kind, f"{self._where}.{key}") if _is_type(kind) else kind(value)

    def optional(self, key: str, kind: Callable[[Any], Any] | type) -> Any:
        """Return the entry, or ``None`` where it is null."""
        return None if self._entries.get(key, ...) is None else self(key, kind)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings as a tuple."""
        listed = self(key, list)
        for item in listed:
            if not isinstance(item, str):
                raise ValueError(f"{self._where}.{key} holds {item!r:.60}, expected texts only")

        return tuple(listed)


def _is_type(kind: object) -> bool:
    return kind in (str, int, float, list, dict, bool)


def _require(value: Any, kind: Any, where: str) -> Any:
    # To Python a bool is an int, to JSON it is not; and JSON writes 1.0 as 1 at times.
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    if wrong or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{where} is {value!r:.60}, expected a {kind.__name__}")

    return value


def require_known(entries: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise ``ValueError`` for an entry that nobody would read, and everybody would drop."""
    unknown = sorted(entries.keys() - set(known))
    if unknown:
        raise ValueError(f"{where} has an unknown entry {unknown[0]!r:.60}")


def _names(kind: type) -> list[str]:
    return [entry.name for entry in dataclasses.fields(kind)]


def _part(stored: object, kind: type, where: str) -> Taker:
    entries = _require(stored, dict, where)
    require_known(entries, _names(kind), where)

    return Taker(entries, where)


def _cost(stored: object) -> Cost:
    return _cost_from(_part(stored, Cost, "cost"), "evaluations")


def _cost_from(take: Taker, evaluations: str) -> Cost:
    return Cost(
        evaluations=take(evaluations, int),
        seconds=take("seconds", float),
        peak_memory_mib=take("peak_memory_mib", int),
    )


def _stop(stored: object) -> Stop:
    take = _part(stored, Stop, "stop")

    return Stop(
        reason=take("reason", str),
        steps=take("steps", int),
        degree=take("degree", float),
        degrees=_numbers(take("degrees", list), "stop.degrees"),
    )


def _stop_of_format_1(take: Taker) -> Stop:
    return Stop(
        reason=take("stop_reason", str),
        steps=take("steps", int),
        degree=take("erasure_degree", float),
        degrees=_numbers(take("erasure_degrees", list), "info.erasure_degrees"),
    )


def _certificate(stored: object) -> dict[str, Any]:
    """Check what ``in_words`` and the tables read; the rest is for whoever made it."""
    entries = _require(stored, dict, "certificate")
    take = Taker(entries, "certificate")
    if take("sentences", int):
        take("gone", float)
    for side in SIDES:
        if side in entries:
            Taker(take(side, dict), f"certificate.{side}")("moved", float)

    return entries


def _separation(stored: object) -> Separation:
    take = _part(stored, Separation, "separation")
    directions = take("directions", dict)
    for stream, numbers in directions.items():
        for key, value in _require(numbers, dict, f"directions.{stream}").items():
            _require(value, float, f"directions.{stream}.{key}")

    return Separation(take.texts("kept_exactly"), take.optional("kept_in_mean", dict), directions)


def _separation_of_format_1(take: Taker) -> Separation:
    """Take what is true: format 1 stated it from a flag, also where nothing is kept exactly."""
    stated = take.optional("decoupled_from", _decoupled_from) or {}
    rank = take.optional("rank", int)
    if rank is None or take("scope", str) != FAMILIES[FAMILY_OF_FORMAT_1].exact_scope:
        return Separation()

    stating = Taker({"exactly": [], "known": None, **stated}, "decoupled_from")
    residual = take.optional("residual", float)
    directions = {"tokens": {"rank": float(rank), "residual": residual or 0.0}}

    return Separation(stating.texts("exactly"), stating.optional("known", dict) or None, directions)


def _decoupled_from(stated: object) -> dict[str, Any]:
    """Read a list of prompts, as the first files have it, or what later ones say."""
    return {"exactly": stated} if isinstance(stated, list) else _require(stated, dict, "decoupled")


def _numbers(listed: list, where: str) -> tuple[float, ...]:
    return tuple(_require(number, float, where) for number in listed)


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_as_json(inner) for inner in value]

    return value
