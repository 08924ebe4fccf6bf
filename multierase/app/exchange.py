"""The tab ``Exchange``: others' files in, files for others out."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from multierase.app.exchanging import Said, bring_in, discard, hand_out, recognised
from multierase.app.plainly import MODEL, badge, escaped, told
from multierase.app.session import Session
from multierase.interop.sources import ImportSettings
from multierase.interop.targets import PRECISIONS, TARGETS, ExportSettings

IN = """### Import
A file of another eraser's, made for this base: its low-rank factors, or its whole weights. It is
read safely: nothing in it is executed, and it is removed afterwards."""
OUT = """### Export
What is erased on the tab Compose, as one file for other tools."""


def exchange_tab(session: Session, names: gr.State, erased: gr.BrowserState) -> None:
    """Build the tab.

    Args:
        names: the concepts of the library; they are read anew after an import.
        erased: strengths by concept, as the tab ``Compose`` has them.
    """
    with gr.Row():
        with gr.Column(min_width=320):
            _imports(session, names)
        with gr.Column(min_width=320):
            _exports(session, erased)


def _imports(session: Session, names: gr.State) -> None:
    gr.Markdown(IN)
    # The path once more, so that it is removed when its owner has gone or takes another.
    held = gr.State(None, delete_callback=_discarded)
    file = gr.File(label="A file of weights", type="filepath", height=140, elem_id="peer")
    seen = gr.HTML(elem_id="recognised")
    concept = gr.Textbox(label="Concept", placeholder="Van Gogh", elem_id="imported")
    also = gr.Textbox(
        label="Also erases", info="more concepts of the same file, one per line", lines=2
    )
    kind = gr.Dropdown(
        session.kinds(),
        label="Kind",
        value="auto",
        info="whose sentences it is asked; none asks nothing",
    )
    project = gr.Checkbox(
        False,
        label="Project",
        info="keep what lies in the concept's own directions alone, so that it can be separated",
    )
    overwrite = gr.Checkbox(False, label="Replace an increment of this name")
    start = gr.Button("Import", variant="primary", elem_id="import")
    state = gr.HTML(elem_id="import-state")

    @told
    def recognise(path: str | None, before: str | None) -> tuple[str, str | None]:
        if before != path:
            _discarded(before)
        return badge(recognised(path or "", get_upload_folder()), "changed"), path

    @told
    def take(
        path: str | None, concept: str, also: str, kind: str, project: bool, replace: bool
    ) -> tuple:
        more = tuple(line.strip() for line in (also or "").splitlines() if line.strip())
        settings = ImportSettings(also=more, kind=str(kind), project=bool(project))
        found = bring_in(
            session,
            path or "",
            get_upload_folder(),
            concept or "",
            settings,
            overwrite=bool(replace),
        )
        return _shown(found), None, "", session.concepts()

    dropped = file.upload(recognise, [file, held], [seen, held])
    dropped.failure(_still_there, file, [file, seen], show_progress="hidden")
    file.clear(_cleared, held, [seen, held], show_progress="hidden")
    imported = start.click(
        take,
        [file, concept, also, kind, project, overwrite],
        [state, file, seen, names],
        concurrency_id=MODEL,
        api_name="import",
    )
    imported.failure(_still_there, file, [file, seen], show_progress="hidden")


def _exports(session: Session, erased: gr.BrowserState) -> None:
    gr.Markdown(OUT)
    to = gr.Dropdown(
        [(f"{name}: {target.about}", name) for name, target in TARGETS.items()],
        label="Format",
        value="kohya",
        elem_id="format",
    )
    with gr.Row():
        precision = gr.Dropdown(list(PRECISIONS), label="Precision", value="float32", min_width=120)
        rank = gr.Number(
            0,
            label="Rank",
            info="at most; 0 loses nothing",
            precision=0,
            minimum=0,
            min_width=120,
        )
    quick = gr.Checkbox(
        False, label="Quick", info="ask for no certificate of the file, and make no picture"
    )
    start = gr.Button("Export", variant="primary", elem_id="export")
    state = gr.HTML(elem_id="export-state")
    download = gr.DownloadButton("Download", interactive=False, elem_id="download")

    @told
    def export(to: str, precision: str, rank: float | None, quick: bool, erased: Any) -> tuple:
        settings = ExportSettings(
            rank=int(rank) if rank else None, precision=str(precision), quick=bool(quick)
        )
        # In Gradio's own folder, of which it removes what is old.
        found = hand_out(session, erased, to, settings, get_upload_folder())
        return _shown(found.said), gr.DownloadButton(value=str(found.path), interactive=True)

    start.click(
        export,
        [to, precision, rank, quick, erased],
        [state, download],
        concurrency_id=MODEL,
        api_name="export",
    )


def _shown(said: Said) -> str:
    first, *rest = said.facts
    items = "".join(f"<li>{escaped(text)}</li>" for text in rest)
    warnings = "".join(badge(text, "changed") for text in said.warnings)

    return f"{badge(first, 'good')}<ul>{items}</ul>{warnings}"


def _discarded(path: str | None) -> None:
    discard(path, get_upload_folder())


def _cleared(path: str | None) -> tuple[str, None]:
    _discarded(path)

    return "", None


def _still_there(path: str | None) -> tuple[Any, Any]:
    """Keep showing an uploaded file that was not refused, such as one whose concept has no name."""
    if path and os.path.exists(path):
        return gr.skip(), gr.skip()

    return None, ""
