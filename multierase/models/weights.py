"""The weights of a model while a composer changes them: pristine copies and checks."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from multierase.errors import DeviceError, ModelChanged, ModelHeld
from multierase.models.model import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stamp:
    """What a parameter was when it was last written.

    Args:
        version: torch's own counter of changes in place.
        checksum: wrapping sum of the bits, which also sees changes through ``.data``: so LoRAs are
            fused.
    """

    version: int
    checksum: int


class Weights:
    """Parameters of a model, by name, with a pristine copy of each that was ever changed.

    Before a parameter is read or written, it must be the one that was last seen, with the values
    that were last written. Anything else is ``ModelChanged``: somebody loaded other weights, fused
    a LoRA, quantised or replaced a layer.
    """

    def __init__(self, model: Model):
        self.model = model
        self._parameters: dict[str, nn.Parameter] = {}
        self._pristine: dict[str, torch.Tensor] = {}
        self._stamps: dict[str, Stamp] = {}
        self._names = frozenset(model.parameters())

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def parameter(self, name: str) -> nn.Parameter:
        """Return a parameter as it stands.

        Raises:
            DeviceError: if its values are not at hand, because they were offloaded.
            ModelChanged: if it is another one than before.
        """
        parameter = _parameter(self.model, name)
        # Offloading replaces a parameter too, and is the better explanation.
        if parameter.is_meta:
            raise DeviceError(
                f"{name} has no values: the model is offloaded; move it to a device before "
                "composing, or compose before offloading it"
            )
        known = self._parameters.setdefault(name, parameter)
        if known is not parameter:
            raise ModelChanged(
                f"{name} was replaced since it was composed (other weights loaded with "
                "assign=True, or a layer quantised or wrapped): close() this composer, and make "
                "a new one for the model as it is now"
            )

        return parameter

    def pristine(self, name: str) -> torch.Tensor:
        """Return the base's own values, a copy once the parameter has been changed."""
        if name in self._pristine:
            return self._pristine[name]

        return self.parameter(name).detach()

    def watch(self, names: Iterable[str]) -> None:
        """Notice from now on if somebody changes these parameters, which are the base's."""
        for name in names:
            if name not in self._stamps:
                self._stamps[name] = _stamp(self.parameter(name))

    def keep(self, names: Iterable[str]) -> None:
        """Make the pristine copies of these parameters, before they are changed."""
        names = list(names)
        self.watch(names)
        for name in names:
            if name not in self._pristine:
                self._pristine[name] = self.parameter(name).detach().clone()

    def write(self, name: str, values: torch.Tensor) -> None:
        """Write a parameter's values, and note what was written."""
        parameter = self.parameter(name)
        # Whoever is interrupted here must not take the values for somebody else's.
        self._stamps.pop(name, None)
        # Detached, and not under no_grad: an interrupt may leave torch without gradients for good.
        parameter.detach().copy_(values.detach())
        self._stamps[name] = _stamp(parameter)

    def require_untouched(self, names: Iterable[str]) -> None:
        """Raise ``ModelChanged`` if somebody else has changed one of these parameters.

        Parameters that were never looked at may hold anything.
        """
        for name in sorted(names):
            if name in self._stamps and self._stamps[name] != _stamp(self.parameter(name)):
                raise ModelChanged(
                    f"{name} has other values than were composed: somebody loaded other weights, "
                    "trained, or fused a LoRA since. close() this composer and load the base "
                    "again; fuse LoRAs before the first composition"
                )

    def changed_since(self, names: Iterable[str]) -> bool:
        """Whether the model is not what it was when it was last written or looked at.

        Every parameter is looked at for changes that torch counts, which costs nothing; the values
        of ``names`` are compared as well.
        """
        try:
            for name, stamp in self._stamps.items():
                if stamp.version != _version(self.parameter(name)):
                    return True
            self.require_untouched(names)
        except ModelChanged:
            return True

        return False

    def give_back(self, names: Iterable[str]) -> list[str]:
        """Write the base's own values where nobody else has written since.

        Returns:
            The parameters that somebody else has changed, which stay as they are.
        """
        left = []
        for name in names:
            try:
                self.require_untouched([name])
                self.write(name, self.pristine(name))
            except (ModelChanged, DeviceError):
                left.append(name)

        return left


class Hold:
    """One composer's hold on a model: as long as concepts are erased, no other may change it."""

    def __init__(self, owner: object, weights: Weights):
        self._owner = weakref.ref(owner)
        self._weights = weights
        self._changed: tuple[str, ...] = ()

    @property
    def owner(self) -> object | None:
        """The composer; ``None`` once it is gone."""
        return self._owner()

    def __deepcopy__(self, memo: dict) -> None:
        """Leave a copied module free: the copy's weights are nobody's."""

    def __reduce__(self) -> tuple:
        return type(None), ()

    def note(self, changed: Iterable[str]) -> None:
        """Note which parameters may not be the base's."""
        self._changed = tuple(sorted(changed))

    def give_back(self) -> None:
        """Write the base's own values, for a composer that is gone or gives up."""
        left = self._weights.give_back(self._changed)
        if left:
            logger.warning(
                "%d parameters were changed by somebody else while concepts were erased, and stay "
                "as they are, first %r: load the base again to be sure of it",
                len(left),
                left[0],
            )


_LOCK = threading.RLock()
_ATTRIBUTE = "_multierase_hold"


def acquire(owner: object, weights: Weights) -> Hold:
    """Let ``owner`` change the model's weights from now on.

    Raises:
        ModelHeld: if another composer has concepts erased on it.
    """
    with _LOCK:
        require_free(weights.model, owner)
        hold = Hold(owner, weights)
        # On the module itself, so that both are collected together.
        _denoiser(weights.model).__dict__[_ATTRIBUTE] = hold
        return hold


def release(owner: object, weights: Weights) -> None:
    """Let others change the model's weights."""
    with _LOCK:
        held = _hold_of(weights.model)
        if held is not None and held.owner is owner:
            del _denoiser(weights.model).__dict__[_ATTRIBUTE]


def require_free(model: Model, owner: object = None) -> None:
    """Make sure that the model's weights are the base's, or composed by ``owner``.

    What a composer that is gone has left is restored.

    Raises:
        ModelHeld: if another composer has concepts erased on the model.
    """
    with _LOCK:
        held = _hold_of(model)
        if held is None or held.owner is owner is not None:
            return
        if held.owner is not None:
            raise ModelHeld(
                "concepts are erased on this model by another composer: call its restore_all() or "
                "close() first, or use that composer"
            )

        logger.warning("a composer was lost while concepts were erased: the base is restored")
        held.give_back()
        del _denoiser(model).__dict__[_ATTRIBUTE]


def _hold_of(model: Model) -> Hold | None:
    return _denoiser(model).__dict__.get(_ATTRIBUTE)


def _denoiser(model: Model) -> nn.Module:
    return next(iter(model.components.values()))


def _parameter(model: Model, name: str) -> nn.Parameter:
    try:
        parameter = getattr(model.module_of(name), name.rpartition(".")[2], None)
    except AttributeError:
        parameter = None
    if not isinstance(parameter, nn.Parameter):
        raise ModelChanged(
            f"the model has no parameter {name} any more: a layer was replaced; close() this "
            "composer, and make a new one for the model as it is now"
        )

    return parameter


def _stamp(parameter: nn.Parameter) -> Stamp:
    values = parameter.detach()
    flat = values.reshape(-1).contiguous()
    # Sums of eight bytes at once are as fast as memory, and exact in any order.
    size, start = (n * flat.element_size() for n in (flat.numel(), flat.storage_offset()))
    words = flat.view(torch.int64 if size % 8 == start % 8 == 0 else torch.uint8)

    return Stamp(_version(parameter), int(words.sum().item()))


def _version(parameter: nn.Parameter) -> int:
    return 0 if parameter.is_inference() else parameter._version  # those have no counter
