"""What an erasure may change in each family of models, by the parameters' names: data, no torch.

Names carry their component, as in ``unet.down_blocks.0...``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

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
        values: part of the names of the layers that make attention's values alone.
        in_place_of: by scopes of Stable Diffusion, in which kinds speak, what they are here.
    """

    scopes: Mapping[str, Scope]
    reads: Callable[[str], str | None]
    exact_scope: str
    values: str = ".to_v."
    in_place_of: Mapping[str, str] = field(default_factory=dict)

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


def _reads_text_first(parameter: str) -> str | None:
    """The layers of a joint-attention transformer that read text before all else is mixed in.

    Their biases read nothing, so they are not among them. FLUX.2 has no pooled vector, and the
    first of them alone.
    """
    first = {
        "transformer.context_embedder.weight": "tokens",
        "transformer.time_text_embed.text_embedder.linear_1.weight": "pooled",
    }

    return first.get(parameter)


_TEXT_STREAM = (".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj.")

TRANSFORMER = Family(
    scopes={
        "text-input": Scope(
            "the first layers of the text: small files, exact separation",
            lambda name: _reads_text_first(name) is not None,
        ),
        "text-keys-values": Scope(
            "keys and values of the text stream: deeper, and not exact",
            lambda name: any(layer in name for layer in _TEXT_STREAM[1:]),
        ),
        "esd-x": Scope(
            "queries, keys and values of the text stream",
            lambda name: any(layer in name for layer in _TEXT_STREAM),
        ),
        "attention": Scope("all of attention, text and picture", lambda name: ".attn." in name),
        "full": Scope("every weight", lambda name: True),
    },
    reads=_reads_text_first,
    exact_scope="text-input",
    # All weights of such a transformer are too many to train: 214 GB for FLUX.1.
    in_place_of={"esd-x-strict": "text-input", "esd-u": "esd-x", "selfattn": "esd-x"},
)

FAMILIES: dict[str, Family] = {
    "stable-diffusion": STABLE_DIFFUSION,
    "stable-diffusion-xl": STABLE_DIFFUSION,
    "stable-diffusion-3": TRANSFORMER,
    "flux": TRANSFORMER,
    "flux-2-klein": TRANSFORMER,
}
# Files of format 1 knew one family, and named its parameters without their component.
FAMILY_OF_FORMAT_1, COMPONENT_OF_FORMAT_1 = "stable-diffusion", "unet."
EVALUATIONS_OF_FORMAT_1 = "unet_evaluations"


def scope_names() -> list[str]:
    """Return the names of all families' scopes, sorted."""
    return sorted({name for family in FAMILIES.values() for name in family.scopes})
