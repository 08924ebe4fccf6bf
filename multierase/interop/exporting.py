"""A composed set, written as a file or folder that other tools read."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import multierase
from multierase.composer import Composer
from multierase.errors import UsageError
from multierase.files import replacing, require_absent, write_json
from multierase.generate import generate
from multierase.increments.container import write_container
from multierase.increments.library import Library
from multierase.increments.provenance import SIDES
from multierase.increments.value import Increment, changed
from multierase.interop.metadata import header
from multierase.interop.original import whole_file
from multierase.interop.outgoing import Outgoing
from multierase.interop.pipeline import absent_parts, export_pipeline, new_folder, require_empty
from multierase.interop.targets import (
    PICKLED,
    TARGETS,
    ExportSettings,
    Target,
    diff,
    diffusers,
    hub,
    kohya,
    target_named,
)
from multierase.pictures import contact_sheet, encoded
from multierase.training.certificate import certify, examined

logger = logging.getLogger(__name__)


def require_target(name: str, out: str | Path, *, overwrite: bool = False) -> Target:
    """Return a target that can be written to ``out``, before anything is loaded.

    Raises:
        UsageError: for an unknown one, or a file name of another kind.
        AlreadyThere: for a file that is there, unless ``overwrite``, or a folder that is not empty.
    """
    target, out = target_named(name), Path(out)
    if not target.suffixes:
        require_empty(out)
    elif out.suffix not in target.suffixes:
        raise UsageError(f"{name} is a file: give --out a name that ends in {target.suffixes[0]}")
    elif not overwrite:
        require_absent(out)

    return target


def export(
    composer: Composer,
    out: str | Path,
    to: str = "pipeline",
    settings: ExportSettings | None = None,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write what is erased now in a format of ``TARGETS``; the file appears whole or not at all.

    Returns:
        JSON values, which say where it is, what is in it, and, for what is added to a base, its
        error: in weights, and in what the certificate says before and after.

    Raises:
        UsageError: for an unknown format, one that this family does not have, or nothing erased.
        AlreadyThere, WriteError: see ``require_target``; or if the disk is full.
    """
    target, out = require_target(to, out, overwrite=overwrite), Path(out)
    settings = settings or ExportSettings()
    model, erased = composer.model, dict(composer.erased)
    if target.unet and "unet" not in model.components:
        raise UsageError(
            f"{to} files are for U-Nets, and {model.name} has none: take diffusers, which "
            "ComfyUI, Forge and diffusers read, or diff"
        )
    if target.adds and not erased:
        raise UsageError("nothing is erased, so there is nothing to add: give --erase")

    if to == "pipeline":
        export_pipeline(model, composer, out)
        return {"file": str(out), "to": to, "absent": absent_parts(model)}

    outgoing = _outgoing(composer, target, settings)
    if to == "diffusers":
        with new_folder(out) as folder:
            _write_lora(outgoing, folder)
    elif to == "hub-folder":
        with new_folder(out) as folder:
            _write_hub_folder(composer.increments, outgoing, folder, settings)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_file(outgoing, out, to, overwrite)

    return {"file": str(out), "to": to, **outgoing.about}


def _outgoing(composer: Composer, target: Target, settings: ExportSettings) -> Outgoing:
    """Take what is composed, cut it to the target, and find out what that loses."""
    model, erased = composer.model, dict(composer.erased)
    about = {
        "version": multierase.__version__,
        "base": model.name,
        "family": model.family,
        "solve": composer.solve,
        "erased": erased,
    }
    if not target.adds:
        return Outgoing(model, erased, {}, {}, about=about)

    with composer.planned([erased]) as (changes,):
        exact = {name: changes.delta(name) for name in changes.shapes}
        outgoing = Outgoing(model, erased, exact, exact, about=about)
        outgoing = (
            outgoing.cut(settings.rank, settings.precision)
            if target.low_rank
            else outgoing.whole(settings.precision)
        )
        if outgoing.left_out:
            logger.warning(
                "%d parameters have no rank, such as biases, and are left out, first %r: diff "
                "holds them",
                len(outgoing.left_out),
                outgoing.left_out[0],
            )
        if _factors_are_larger(outgoing):
            logger.warning("dense differences of these weights are smaller, and exact: take diff")
        found: dict[str, Any] = {"error": outgoing.error, "left_out": len(outgoing.left_out)}
        if target.low_rank:
            found |= {"ranks": _ranks(outgoing)}
        if not settings.quick:
            found |= _certificates(composer, outgoing)
            found["prompt"] = settings.prompt or _sentence(composer, next(iter(erased)))
            outgoing = replace(outgoing, picture=_picture(outgoing, found["prompt"]))

    return replace(outgoing, about={**about, **found})


def _factors_are_larger(outgoing: Outgoing) -> bool:
    """Tell whether the factors have more numbers than the matrices that they multiply to."""
    numbers = sum(one.up.numel() + one.down.numel() for one in outgoing.factors.values())

    return numbers > sum(math.prod(outgoing.exact[name].shape) for name in outgoing.factors)


def _ranks(outgoing: Outgoing) -> list[int]:
    ranks = outgoing.ranks.values()

    return [min(ranks), max(ranks)]


def _certificates(composer: Composer, outgoing: Outgoing) -> dict[str, Any]:
    """Return what the certificate says of the set as it is composed, and as the file has it."""
    increments = composer.increments
    asked = increments.questions() if isinstance(increments, Library) else {}
    if not asked:
        return {}

    model, own = outgoing.model, outgoing.model.parameters()
    questions, erased = examined(model, asked), list(outgoing.erased)
    said = {}
    for name, deltas in (("composed", outgoing.exact), ("file", outgoing.stored)):
        with model.holding(changed(own, deltas)):
            said[name] = _in_short(certify(model, questions, erased))

    return {"certificate": said}


def _in_short(certificate: Mapping[str, Any]) -> dict[str, Any]:
    concepts = certificate["concepts"].values()
    gone = [found["gone"] for found in concepts if found["erased"] and "gone" in found]
    short: dict[str, Any] = {"gone": sum(gone) / len(gone)} if gone else {}
    moved = {side: certificate[side]["moved"] for side in SIDES if side in certificate}

    return {**short, "moved": moved}


def _picture(outgoing: Outgoing, prompt: str) -> bytes:
    """Return a PNG: a prompt as the base draws it, and as it does with the file."""
    model = outgoing.model
    pictures = [generate(model, [prompt], [0])]
    with model.holding(changed(model.parameters(), outgoing.stored)):
        pictures.append(generate(model, [prompt], [0]))
    labels = ["base", f"without {', '.join(outgoing.erased)}"]

    return encoded(contact_sheet(torch.cat(pictures), 2, column_labels=labels))


def _sentence(composer: Composer, concept: str) -> str:
    """Return a sentence that the concept was erased by: about something, where there is one."""
    made = composer.increments[concept].provenance
    for prompt, context in zip(made.prompts, made.contexts, strict=True):
        if context:
            return prompt

    return concept


def _write_file(outgoing: Outgoing, out: Path, to: str, overwrite: bool) -> None:
    if to == "unet":
        (denoiser,) = outgoing.model.components.values()
        tensors = {name: value.cpu() for name, value in denoiser.state_dict().items()}
    elif to == "single-file":
        tensors = {name: value.cpu() for name, value in whole_file(outgoing.model.pipeline).items()}
    else:
        tensors = (kohya if to == "kohya" else diff).tensors(outgoing)

    with replacing(out, overwrite=overwrite) as temporary:
        if out.suffix in PICKLED:
            torch.save({name: tensor.clone() for name, tensor in tensors.items()}, temporary)
        else:
            lora = TARGETS[to].adds
            write_container(temporary, tensors, header(outgoing, tensors, lora=lora))


def _write_lora(outgoing: Outgoing, folder: Path) -> None:
    """Write diffusers' file, and PEFT's beside it."""
    tensors, adapter = diffusers.tensors(outgoing), diffusers.adapter(outgoing)
    write_container(folder / diffusers.LORA, tensors, header(outgoing, tensors, lora=True))
    write_container(folder / diffusers.ADAPTER, adapter, header(outgoing, adapter, lora=True))
    write_json(folder / diffusers.CONFIG, diffusers.adapter_config(outgoing))


def _write_hub_folder(
    library: Mapping[str, Increment], outgoing: Outgoing, folder: Path, settings: ExportSettings
) -> None:
    """Write the increments, which make the folder a library, and what others read beside them."""
    written = Library(folder)
    for concept in outgoing.erased:
        written.save(library[concept])
    (folder / hub.LORA).mkdir()
    _write_lora(outgoing, folder / hub.LORA)
    to = "kohya" if "unet" in outgoing.model.components else "diff"
    added = outgoing if to == "kohya" else outgoing.whole(outgoing.precision)
    (folder / hub.INTERFACES).mkdir()
    _write_file(added, folder / hub.INTERFACES / hub.FILE, to, overwrite=False)

    if outgoing.picture is not None:
        (folder / hub.PICTURES).mkdir()
        (folder / hub.PICTURES / hub.PICTURE).write_bytes(outgoing.picture)
    (folder / "README.md").write_text(hub.card(outgoing, library, settings.license))
