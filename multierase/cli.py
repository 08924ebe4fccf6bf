"""The command line: each verb parses, calls the library and prints. Nothing imports this module."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import rich.markup
import torch
from jsonargparse import Namespace
from rich.logging import RichHandler

from multierase.arguments import build_parser
from multierase.base import Base
from multierase.composer import Composer
from multierase.concepts import Concept, to_keep
from multierase.console import (
    ENTANGLED,
    composed,
    deviations_of,
    listed_in,
    open_base,
    print_table,
    settings_of,
    stderr,
)
from multierase.decoupling import ConceptRefused
from multierase.demo import run_demo
from multierase.evaluation.verbs import run_evaluate, run_report, run_sweep
from multierase.generate import SamplingSettings, contact_sheet, generate, matrix_picture, save_picture
from multierase.increments import Increment
from multierase.interop import export_pipeline
from multierase.library import IncrementFileError, Library, load_increment, require_fits
from multierase.settings import UsageError, parse
from multierase.training import EraseSettings, erase_several

logger = logging.getLogger(__name__)


def _groups(concepts: list[Concept], settings: EraseSettings, simultaneous: bool) -> list[list[Concept]]:
    """Concepts that share a run: all, if they are to be trained under one another; as many as a batch may hold, where
    nothing but keys and values differs; else each alone."""
    if simultaneous:
        return [concepts]
    shared = settings.scope == "esd-x-strict"
    size = max(1, settings.sampling_batch // settings.batch_size) if shared else 1
    return [concepts[start : start + size] for start in range(0, len(concepts), size)]


def _erase_group(
    base: Base,
    library: Library,
    group: list[Concept],
    settings: EraseSettings,
    arguments: Namespace,
    refused: list[dict],
) -> list[Increment]:
    """The increments of one run, without those that are refused."""
    listed, names = listed_in(arguments.keep_file), [concept.name for concept in group]
    together = names if arguments.simultaneous else ()
    each = [dataclasses.replace(settings, keep=(*settings.keep, *to_keep(listed, name, *together))) for name in names]
    digest = hashlib.sha256("/".join(names).encode()).hexdigest()[:8]
    try:
        return erase_several(
            base,
            group,
            each,
            simultaneous=arguments.simultaneous,
            checkpoint=library.folder / f"{group[0].slug}-{len(group)}-{digest}.partial",
            resume=arguments.resume,
            progress=True,
        )
    except ConceptRefused as error:
        logger.warning("refused %r: %s", error.concept, error)
        refused.append({"concept": error.concept, "reason": str(error)})
        left = [concept for concept in group if concept.name != error.concept]
        return _erase_group(base, library, left, settings, arguments, refused) if left else []


def run_erase(arguments: Namespace) -> dict:
    settings = settings_of(EraseSettings, arguments)
    if not arguments.concepts:
        raise UsageError("name at least one concept: multierase erase NAME --library FOLDER")
    prompts = (*arguments.prompts, *(p.prompt for p in listed_in(arguments.prompts_file)))
    if prompts and len(arguments.concepts) > 1:
        raise UsageError(
            f"--prompts are one concept's, {len(arguments.concepts)} concepts given: erase them one by one"
        )
    concepts = [
        Concept(name, tuple(prompts), anchor=arguments.anchor, erase_from=arguments.erase_from)
        for name in arguments.concepts
    ]
    base, library = open_base(arguments), Library(arguments.library, create=True)
    rows, refused = [], []
    for group in _groups(concepts, settings, arguments.simultaneous):
        for increment in _erase_group(base, library, group, settings, arguments, refused):
            file = str(library.save(increment))
            keys = ("stop_reason", "erasure_degree", "steps", "unet_evaluations", "seconds")
            rows.append({"concept": increment.concept, "file": file, **{key: increment.info[key] for key in keys}})
    if not rows:
        raise ConceptRefused(f"refused {[row['concept'] for row in refused]}: {refused[0]['reason']}")
    try:
        _entangled(_relative_crosstalk(Composer(base.unet, library))[1], {concept.name for concept in concepts})
    except ValueError as error:  # what was asked for is done; a file beside it may be anything
        logger.warning("cross-talk with the rest of the library is not known: %s", error)
    if not arguments.json:
        print_table("erased", list(rows[0]), [list(row.values()) for row in rows])
    if len(concepts) == 1:
        return rows[0]
    return {"increments": rows, **({"refused": refused} if refused else {})}


def run_ls(arguments: Namespace) -> dict:
    keys = ("scope", "stop_reason", "erasure_degree", "steps", "unet_evaluations", "base", "bytes")
    infos = Library(arguments.library).infos()
    rows = [{"concept": name, **{key: info.get(key) for key in keys}} for name, info in infos.items()]
    if not arguments.json:
        print_table(str(arguments.library), ("concept", *keys), [list(row.values()) for row in rows])
    return {"library": str(arguments.library), "increments": rows}


def run_show(arguments: Namespace) -> dict:
    library = Library(arguments.library)
    increment = library[arguments.concept]
    info = dict(library.infos()[arguments.concept])
    info |= {"norm": increment.norm(), "parameters": {n: list(d.shape) for n, d in increment.deltas.items()}}
    if not arguments.json:
        rows = {**info, **info.pop("settings", {})}
        curve = rows.pop("erasure_degrees", [])
        rows["parameters"], rows["erasure degrees"] = len(increment.deltas), f"{curve[:1]} … {curve[-1:]}"
        print_table(arguments.concept, ("", ""), [(key, value) for key, value in rows.items()])
    return info


def run_generate(arguments: Namespace) -> dict:
    if not arguments.prompts:
        raise UsageError('give at least one prompt: multierase generate "a church by Noto" --out sheet.png')
    base = open_base(arguments)
    composer = composed(arguments, base)
    deviations = deviations_of(composer)
    rows = arguments.images
    prompts = list(arguments.prompts) * rows
    seeds = [arguments.seed + row for row in range(rows) for _ in arguments.prompts]
    images = generate(base, prompts, seeds, settings_of(SamplingSettings, arguments), progress=True)
    save_picture(contact_sheet(images, len(arguments.prompts), column_labels=arguments.prompts), arguments.out)
    stderr.print(f"wrote {arguments.out}", markup=False)
    erased = {"erased": dict(composer.off), "deviations": deviations}
    return {"file": str(arguments.out), "prompts": prompts, "seeds": seeds, **erased}


def run_compose(arguments: Namespace) -> dict:
    base = open_base(arguments)
    composer = composed(arguments, base)
    deviations = deviations_of(composer)
    folder = export_pipeline(base, composer, arguments.out)
    stderr.print(f"wrote {folder}: a diffusers pipeline folder", markup=False)
    return {"folder": str(folder), "erased": dict(composer.off), "deviations": deviations}


def run_validate(arguments: Namespace) -> dict:
    files = sorted(Library(arguments.library).folder.glob("*.safetensors"))
    parameters = dict(open_base(arguments).unet.named_parameters())
    found = []
    for file in files:
        try:
            require_fits(load_increment(file), parameters)
            found.append({"file": str(file), "sound": True, "problem": None})
        except IncrementFileError as error:
            found.append({"file": str(file), "sound": False, "problem": str(error)})
    if not arguments.json:
        rows = [(row["file"], "sound" if row["sound"] else row["problem"]) for row in found]
        print_table(f"{len(files)} increment files", ("file", ""), rows)
    return {"library": str(arguments.library), "files": found, "sound": all(row["sound"] for row in found)}


def _entangled(relative: dict[str, dict[str, float]], names: Collection[str]) -> list[list[str]]:
    """Pairs ``[i, j]``: the increment of ``i`` moves the tokens of ``j`` nearly as much as its own."""
    pairs = [[i, j] for i, row in relative.items() for j in row if i != j and j in relative and row[j] > ENTANGLED]
    pairs = [pair for pair in pairs if names & set(pair)]
    for i, j in pairs:
        logger.warning(
            "%r and %r are entangled: erasing the first moves the second, %.2f of itself", i, j, relative[i][j]
        )
    return pairs


def _relative_crosstalk(composer: Composer) -> tuple[dict, dict]:
    """``X_ij``, and beside each increment's effect on its own tokens."""
    table = composer.crosstalk()
    return table, {i: {j: value / row[i] for j, value in row.items()} for i, row in table.items()}


def run_compress(arguments: Namespace) -> dict:
    dtypes = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
    if arguments.dtype not in dtypes:
        raise UsageError(f"--dtype {arguments.dtype!r}: give one of {list(dtypes)}")
    library, smaller = Library(arguments.library), Library(arguments.out, create=True)
    concepts = arguments.concepts or list(library)
    library.require(concepts)
    rows = []
    for concept in concepts:
        compressed = library[concept].compressed(arguments.error, dtypes[arguments.dtype])
        file, before = smaller.save(compressed), library.path(concept).stat().st_size
        row = {"concept": concept, "file": str(file), "bytes_before": before, "bytes": file.stat().st_size}
        rows.append({**row, "error": compressed.info["compression"]["error"]})
    if not arguments.json:
        columns = ("concept", "kB before", "kB", "error")
        cells = [(r["concept"], r["bytes_before"] / 1e3, r["bytes"] / 1e3, f"{r['error']:.4f}") for r in rows]
        print_table(f"compressed into {arguments.out}", columns, cells)
    return {"increments": rows}


def run_crosstalk(arguments: Namespace) -> dict:
    base, library = open_base(arguments), Library(arguments.library)
    keep = library.keep_list(base.text, [*base.known_prompts, *listed_in(arguments.keep_file)])
    table, relative = _relative_crosstalk(Composer(base.unet, library, keep=keep))
    title = "how much a row's increment moves a column's tokens, beside its own"
    if not arguments.json:
        columns = list(next(iter(relative.values()), {}))
        print_table(title, ("", *columns), [(i, *row.values()) for i, row in relative.items()])
    if arguments.out is not None:
        save_picture(matrix_picture(relative, title), arguments.out)
        stderr.print(f"wrote {arguments.out}", markup=False)
    return {"library": str(arguments.library), "crosstalk": table, "entangled": _entangled(relative, set(relative))}


def run_demonstration(arguments: Namespace) -> dict:
    report = run_demo(open_base(arguments), Path(arguments.out), settings_of(EraseSettings, arguments), progress=True)
    if not arguments.json:
        studios = list(next(iter(report["accuracy"].values())))
        rows = [(state, *shares.values()) for state, shares in report["accuracy"].items()]
        print_table("pictures that the judge gives to the studio they were asked of", ("", *studios), rows)
        print_table("bit for bit", ("", ""), list(report["bit_exact"].items()))
        stderr.print(f"wrote {arguments.out}/sheet.png, report.json, lib/ in {report['seconds']} s", markup=False)
    return report


VERBS = {
    "demo": run_demonstration,
    "erase": run_erase,
    "ls": run_ls,
    "show": run_show,
    "generate": run_generate,
    "compose": run_compose,
    "compress": run_compress,
    "crosstalk": run_crosstalk,
    "validate": run_validate,
    "evaluate": run_evaluate,
    "sweep": run_sweep,
    "report": run_report,
}


def _failed(error: Exception | str, code: int) -> int:
    stderr.print(f"[red]error:[/] {rich.markup.escape(str(error))}", highlight=False, soft_wrap=True)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(level="WARNING", format="%(message)s", handlers=[RichHandler(console=stderr, show_path=False)])
    try:
        namespace = parse(*build_parser(), sys.argv[1:] if arguments is None else list(arguments))
        own = namespace[namespace.verb]
        result = VERBS[namespace.verb](own)
    except UsageError as error:
        return _failed(error, 2)
    except (ValueError, KeyError, OSError, FloatingPointError) as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return _failed("interrupted; an erasure goes on where it was with --resume and the same settings", 130)
    if own.json:
        print(json.dumps(result))
    return 0 if result.get("sound", True) else 1
