"""The page itself: its tabs, its look, and how it is served."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from multierase.app import Serving
from multierase.app.compose import compose_tab
from multierase.app.erase import erase_tab
from multierase.app.exchange import exchange_tab
from multierase.app.look import look_tab
from multierase.app.pairs import pairs_tab
from multierase.app.plainly import escaped
from multierase.app.session import Session

LOOK_AGAIN = 5  # seconds between two looks at the library
FONTS = ["system-ui", "sans-serif"]  # none that would be fetched
CSS = """
.badge { padding: 8px 12px; border-radius: 6px; border-left: 5px solid; margin: 4px 0;
         overflow-wrap: anywhere; }
.badge.good { border-color: #15803d; background: #15803d22; }
.badge.changed { border-color: #b45309; background: #b4530922; }
.badge.bad { border-color: #b91c1c; background: #b91c1c22; }
.switch .form { align-items: center; background: var(--block-background-fill); }
.switch .block { padding: 2px 8px; }
.switch label.block { padding: 0; }
.switch input[type=number] { padding: 4px 8px; }
.picture img { width: 100%; height: 100%; object-fit: contain; }
.strip .grid-wrap { height: auto !important; min-height: 170px; }
.strip .grid-container { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) !important;
                         padding-top: 28px; }
.strip .thumbnail-item { aspect-ratio: auto; max-width: 200px; height: auto; }
.strip .thumbnail-item img { aspect-ratio: 1; object-fit: contain; }
.strip .caption-label { position: static; max-width: none; white-space: normal; border: none;
                        text-align: left; overflow-wrap: anywhere; }
.curve { width: 100%; font-size: 13px; fill: currentColor; }
.curve line { stroke: currentColor; opacity: 0.3; }
.curve polyline { fill: none; stroke: var(--primary-500); stroke-width: 2.5; }
.gradio-container { max-width: 1400px !important; }
"""


@dataclass(frozen=True)
class Page:
    """A page that is served.

    Args:
        address: what a browser opens.
    """

    address: str
    blocks: gr.Blocks

    def wait(self) -> None:
        """Serve it until an interrupt."""
        self.blocks.block_thread()

    def close(self) -> None:
        """Stop serving it."""
        self.blocks.close(verbose=False)


def build(session: Session) -> gr.Blocks:
    """Build the page of a session."""
    base = escaped(session.workspace.model.name)
    folder = escaped(session.workspace.library.folder)
    # An export is a file in the upload folder: it is deleted an hour after it was made.
    with gr.Blocks(title="multierase", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f"<h1>multierase</h1><p>base <b>{base}</b>, library <b>{folder}</b></p>")
        names = gr.State([])
        erased = gr.BrowserState({}, storage_key=f"multierase {folder}", secret="multierase")
        with gr.Tabs():
            with gr.Tab("Compose"):
                compose_tab(session, names, erased, _first_prompt(session))
            with gr.Tab("Erase"):
                erase_tab(session, names)
            with gr.Tab("Look"):
                look_tab(session, names)
            with gr.Tab("Exchange"):
                exchange_tab(session, names, erased)
            with gr.Tab("Blind pairs"):
                pairs_tab(session, names)

        page.load(session.concepts, outputs=names, show_progress="hidden")
        again = gr.Timer(LOOK_AGAIN)
        again.tick(session.concepts, outputs=names, show_progress="hidden")

    return page


def serve(session: Session, serving: Serving) -> Page:
    """Serve the page in the background."""
    blocks = build(session).queue(default_concurrency_limit=1)
    _, address, public = blocks.launch(
        server_name=serving.host,
        server_port=serving.port,
        share=serving.share,
        max_file_size=f"{serving.upload_mib}mb",
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )

    return Page(public or address, blocks)


def _first_prompt(session: Session) -> str:
    """Return a sentence that the library's first increment was asked."""
    asked = session.workspace.library.questions()
    for questions in asked.values():
        return str(questions[0]["prompt"])

    return ""
