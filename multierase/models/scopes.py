"""What an erasure may change in each family of models, by the parameters' names: data, no torch.

Names carry their component, as in ``unet.down_blocks.0...``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Selects = Callable[[str], bool]


@dataclass(frozen=True)
class Scope:
    """A published choice of parameters.

    Args:
        about: one line on when to take it.
        selects: whether a parameter of this name belongs to it. Normalisation layers never do, as
            in the authors' code.
    """

    about: str
    selects: Selects


@dataclass(frozen=True)
class Family:
    """What the names of a family's parameters say.

    Args:
        scopes: by name.
        reads: the conditioning stream that is the *only* input of the parameter of this name;
            ``None`` if it has another input.
        exact_scope: the scope in which every parameter reads text alone.
    """

    scopes: Mapping[str, Scope]
    reads: Callable[[str], str | None]
    exact_scope: str

    def readers(self, parameters: Iterable[str]) -> dict[str, str]:
        """Return those of ``parameters`` that read one stream alone, with the stream."""
        streams = {name: self.reads(name) for name in parameters}

        return {name: stream for name, stream in streams.items() if stream is not None}


def _reads_tokens(parameter: str) -> str | None:
    keys_and_values = (".attn2.to_k.weight", ".attn2.to_v.weight")

    return "tokens" if parameter.endswith(keys_and_values) else None


STABLE_DIFFUSION = Family(
    scopes={
        "esd-x": Scope(
            "all of cross-attention: for what a prompt names, an artist",
            lambda name: ".attn2." in name,
        ),
        "esd-x-strict": Scope(
            "keys and values of cross-attention: small files, exact separation",
            lambda name: _reads_tokens(name) is not None,
        ),
        "esd-u": Scope(
            "everything but cross-attention: for what must go even when no prompt names it, nudity",
            lambda name: ".attn2." not in name,
        ),
        "selfattn": Scope("all of self-attention", lambda name: ".attn1." in name),
        "full": Scope("every weight", lambda name: True),
    },
    reads=_reads_tokens,
    exact_scope="esd-x-strict",
)

FAMILIES: dict[str, Family] = {"stable-diffusion": STABLE_DIFFUSION}
# Files of format 1 knew one family, and named its parameters without their component.
FAMILY_OF_FORMAT_1, COMPONENT_OF_FORMAT_1 = "stable-diffusion", "unet."
EVALUATIONS_OF_FORMAT_1 = "unet_evaluations"


def scope_names() -> list[str]:
    """Return the names of all families' scopes, sorted."""
    return sorted({name for family in FAMILIES.values() for name in family.scopes})
