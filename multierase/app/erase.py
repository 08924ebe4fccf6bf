"""The tab ``Erase``: a name in, an increment in the library out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from multierase.app.curve import drawn
from multierase.app.parts import picture
from multierase.app.plainly import MODEL, badge, told
from multierase.app.session import Session, Step, Wanted
from multierase.errors import EXPECTED, Cancelled, message_of
from multierase.methods import METHODS
from multierase.training.settings import EraseSettings

KINDS = (
    "artist: a style; object: a thing; person: somebody; unsafe: nudity or violence; auto takes "
    "the base's own kind, else artist; none takes the name alone"
)
OWN_SCOPE = "the kind's own"


def erase_tab(session: Session, names: gr.State) -> None:
    """Build the tab.

    Args:
        names: the concepts of the library; it is read anew after an erasure.
    """
    given = EraseSettings()
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            name = gr.Textbox("", label="Concept", placeholder="Van Gogh", elem_id="concept")
            kind = gr.Dropdown(session.kinds(), label="Kind", info=KINDS, value="auto")
            method = gr.Dropdown(_methods(), label="Method", value="esd")
            scope = gr.Dropdown(_scopes(session), label="Scope", value=OWN_SCOPE)
            with gr.Row():
                steps = gr.Number(given.steps, label="Most steps", precision=0, minimum=1)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            preview = gr.Textbox(
                "",
                label="Preview",
                info="a prompt to draw every few steps; empty for none",
                elem_id="preview",
            )
            resume = gr.Checkbox(True, label="Go on where a cancelled run ended")
            overwrite = gr.Checkbox(False, label="Replace an increment of this name")
            with gr.Accordion("Sentences", open=False):
                gr.Markdown("Those that the base understands, one per line. Change them, or not.")
                show = gr.Button("Show the sentences")
                sentences = gr.Textbox(
                    "", label="Sentences", lines=4, max_lines=12, elem_id="sentences"
                )
        with gr.Column(scale=3, min_width=320):
            with gr.Row():
                guess = gr.Button("Estimate")
                start = gr.Button("Erase", variant="primary", elem_id="erase")
                stop = gr.Button("Cancel", variant="stop", elem_id="cancel")
            state = gr.HTML(badge("nothing runs", "good"), elem_id="erase-state")
            curve = gr.HTML(drawn((), 1), elem_id="curve")
            drawing = picture("Preview", 280)

    offered = gr.State("")  # the kind's sentences as they were shown
    fields = [name, kind, method, scope, steps, seed, preview, resume, overwrite]
    fields += [sentences, offered]
    guess.click(_estimated(session), fields, state, concurrency_id=MODEL)
    show.click(_sentences(session), fields, [sentences, offered], concurrency_id=MODEL)
    running = start.click(
        _erased(session),
        fields,
        [state, curve, drawing],
        concurrency_id=MODEL,
        show_progress="hidden",
        api_name="erase",
    )
    stop.click(session.cancel, queue=False, show_progress="hidden")
    running.then(session.concepts, outputs=names, show_progress="hidden")


def _estimated(session: Session) -> Any:
    @told
    def estimate(*fields: Any) -> str:
        return badge(session.estimate(_wanted(*fields)), "changed")

    return estimate


def _sentences(session: Session) -> Any:
    @told
    def sentences(*fields: Any) -> tuple[str, str]:
        text = "\n".join(session.sentences(_wanted(*fields)))

        return text, text

    return sentences


def _erased(session: Session) -> Any:
    def erase(*fields: Any) -> Iterator[tuple]:
        # What goes wrong stays where it is looked for, and does not vanish like a message.
        try:
            yield from stages(*fields)
        except Cancelled as error:
            yield _only(badge(f"{error}: press Erase to go on from there.", "changed"))
        except EXPECTED as error:
            yield _only(badge(message_of(error), "bad"))

    def stages(*fields: Any) -> Iterator[tuple]:
        session.begin()
        wanted = _wanted(*fields)
        expected = session.estimate(wanted)
        yield badge(f"{expected} Trying sentences on the base ...", "changed"), None, None

        for news in session.erase(wanted):
            if isinstance(news, str):
                tone = "bad" if news.startswith("Refused") else "good"
                yield _only(badge(news, tone))
                return
            shown = gr.skip() if news.preview is None else news.preview
            yield badge(_progress(news), "changed"), drawn(news.degrees, news.steps), shown

    return erase


def _only(state: str) -> tuple:
    """Return an update of the state, with curve and preview as they are."""
    return state, gr.skip(), gr.skip()


def _progress(step: Step) -> str:
    return (
        f"Step {step.step} of at most {step.steps}; degree {step.degrees[-1]:.2f}; "
        f"{step.evaluations:,} evaluations so far."
    )


def _wanted(
    name: str,
    kind: str,
    method: str,
    scope: str,
    steps: int,
    seed: int,
    preview: str,
    resume: bool,
    overwrite: bool,
    sentences: str,
    offered: str,
) -> Wanted:
    settings = EraseSettings(
        kind=kind,
        scope=None if scope == OWN_SCOPE else scope,
        steps=int(steps),
        seed=int(seed),
    )
    # What nobody has changed is left to the kind, which holds some sentences back.
    changed = sentences if sentences.strip() != offered.strip() else ""
    lines = tuple(line.strip() for line in changed.splitlines() if line.strip())

    return Wanted(name, settings, method, lines, resume, overwrite, preview)


def _methods() -> list[tuple[str, str]]:
    return [(f"{name}: {method.about}", name) for name, method in METHODS.items()]


def _scopes(session: Session) -> list[tuple[str, str]]:
    scopes = session.workspace.model.scopes

    return [
        (OWN_SCOPE, OWN_SCOPE),
        *((f"{name}: {scope.about}", name) for name, scope in scopes.items()),
    ]
