"""The tab ``Look``: what each increment is, how they touch each other, and small sweeps."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterable
from typing import Any

import gradio as gr

from multierase.app.looking import (
    SHOWN_SENTENCES,
    IncrementPage,
    before_and_after,
    heat_map,
    page_of,
)
from multierase.app.parts import follow
from multierase.app.plainly import MODEL, badge, escaped, told
from multierase.app.session import MOST_SUBSETS, Session
from multierase.app.sweeping import (
    MOST_OF_EACH,
    Wanted,
    databases,
    report_of,
    small_sweep,
    suites_for,
)
from multierase.evaluation.suites import DEFAULTS

PROGRESS = gr.Progress()  # a handler that has it as a default can show how far it is
LINE = "border: 0; border-bottom: 1px solid #8884; padding: 4px 8px; vertical-align: top"
NAME = f'style="{LINE}; text-align: left; white-space: nowrap"'
VALUE = f'style="{LINE}; overflow-wrap: anywhere"'
REPORT = (
    '<iframe title="report of a sweep" sandbox="" srcdoc="{page}" '
    'style="width: 100%; height: 75vh; border: 1px solid #8884; background: white"></iframe>'
)


def look_tab(session: Session, names: gr.State) -> None:
    """Build the tab.

    Args:
        names: the concepts of the library; the choices follow it.
    """
    with gr.Accordion("One increment", open=True):
        _increments(session, names)
    with gr.Accordion("Cross-talk", open=False):
        _crosstalk(session)
    with gr.Accordion("Sweeps", open=False):
        _sweeps(session, names)


def _increments(session: Session, names: gr.State) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            concept = gr.Dropdown([], label="Concept", value=None, elem_id="looked-at")
            page = gr.HTML(elem_id="increment")
        with gr.Column(scale=3, min_width=320):
            prompt = gr.Textbox(
                label="Prompt", info="at first a sentence that it was not trained with"
            )
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            draw = gr.Button("Draw before and after", variant="primary", elem_id="draw")
            pictures = gr.Gallery(
                label="One seed, at four strengths",
                columns=2,
                height="fit-content",
                object_fit="contain",
                elem_id="strengths",
            )

    @told
    def show(chosen: str | None) -> tuple[str, Any]:
        if not chosen:
            return "", gr.skip()
        found = page_of(session, chosen)
        return _page(found), found.prompt

    @told
    def compare(chosen: str | None, text: str, seed: int | None) -> list:
        return before_and_after(session, chosen or "", text, int(seed or 0))

    names.change(_choices, [names, concept], concept, show_progress="hidden")
    concept.change(show, concept, [page, prompt], show_progress="minimal")
    draw.click(
        compare, [concept, prompt, seed], pictures, concurrency_id=MODEL, api_name="strengths"
    )


def _crosstalk(session: Session) -> None:
    measure = gr.Button("Measure the cross-talk", elem_id="crosstalk")
    words = gr.HTML()
    picture = gr.Image(
        label="Cross-talk",
        type="pil",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="heat-map",
    )

    @told
    def measured() -> tuple[Any, str]:
        found = heat_map(session)
        return found.picture, badge(found.words, "changed")

    measure.click(measured, outputs=[picture, words], concurrency_id=MODEL, api_name="crosstalk")


def _sweeps(session: Session, names: gr.State) -> None:
    ended = threading.Event()
    chosen, suite, of_each = _asked(session)
    with gr.Row():
        start = gr.Button("Sweep", variant="primary", elem_id="sweep")
        stop = gr.Button("End it", variant="stop")
    state = gr.HTML(badge("no sweep runs", "good"), elem_id="sweep-state")
    database = _reports(session)

    @told
    def sweep(
        concepts: list, suite: str, of_each: int, progress: gr.Progress = PROGRESS
    ) -> tuple[str, Any]:
        ended.clear()

        def tell(done: int, sets: int) -> bool:
            progress((done, sets), desc="sets judged", unit="sets")
            return not ended.is_set()

        progress(0, desc="drawing the base's pictures")
        name = small_sweep(session, Wanted(tuple(concepts or ()), suite, int(of_each)), tell)
        there = gr.Dropdown(choices=list(databases(session)), value=name)
        return badge(f"done: {name}", "good"), there

    follow(names, chosen)
    start.click(
        sweep,
        [chosen, suite, of_each],
        [state, database],
        concurrency_id=MODEL,
        show_progress_on=state,
        api_name="sweep",
    )
    stop.click(ended.set, queue=False, show_progress="hidden")


def _asked(session: Session) -> tuple[gr.Dropdown, gr.Dropdown, gr.Slider]:
    known = suites_for(session)
    with gr.Row():
        with gr.Column(min_width=300):
            chosen = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=MOST_SUBSETS,
                label="Concepts",
                info=f"up to {MOST_SUBSETS}, of which every subset is judged",
                elem_id="swept",
            )
        with gr.Column(min_width=300):
            suite = gr.Dropdown(
                [(f"{name}: {about}", name) for name, about in known.items()],
                label="Suite",
                value=_fitting(known),
            )
            of_each = gr.Slider(
                1, MOST_OF_EACH, 4, step=1, label="Pictures of each class", min_width=120
            )

    return chosen, suite, of_each


def _reports(session: Session) -> gr.Dropdown:
    """Build what opens a sweep's report in place; return the choice of its database."""
    with gr.Row(equal_height=True):
        database = gr.Dropdown(
            list(databases(session)),
            label="Reports",
            info="databases of sweeps in the library's folder",
            value=None,
            scale=4,
            elem_id="databases",
        )
        look_again = gr.Button("Look again", scale=1, min_width=120)
    report = gr.HTML(elem_id="report")

    @told
    def opened(name: str | None) -> str:
        return _framed(report_of(session, name)) if name else ""

    look_again.click(
        lambda: gr.Dropdown(choices=list(databases(session))),
        outputs=database,
        show_progress="hidden",
    )
    database.change(opened, database, report, api_name="report")

    return database


def _choices(there: list[str], now: str | None) -> Any:
    return gr.Dropdown(choices=there, value=now if now in there else None)


def _fitting(known: dict[str, str]) -> str | None:
    return next((suite for suite in (*DEFAULTS.values(), *known) if suite in known), None)


def _framed(page: str) -> str:
    """Return a frame in which a whole page stands by itself: no script, and nothing of ours."""
    return REPORT.format(page=html.escape(page))


def _page(found: IncrementPage) -> str:
    """Return the page as HTML; everything in it comes from a file, and is escaped."""
    shown = min(found.count, SHOWN_SENTENCES)
    sentences = f"the first {shown} of {found.count}" if shown < found.count else f"{found.count}"

    return "".join(
        [
            f"<h3>{escaped(found.concept)}</h3>",
            *(badge(line, "good") for line in found.certificate[:1]),
            _list(found.certificate[1:]),
            _table(found.facts),
            _folded("Settings that are not the defaults", _table(found.settings)),
            _folded("History", _list(found.history)),
            _folded(f"Sentences: {sentences}", _list(found.sentences)),
        ]
    )


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = []
    for name, value in rows:
        first = f"<th {NAME}>{escaped(name.replace('_', ' '))}</th>"
        lines.append(f'<tr style="border: 0">{first}<td {VALUE}>{escaped(value)}</td></tr>')

    return f'<table style="width: 100%; border: 0">{"".join(lines)}</table>'


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escaped(item)}</li>' for item in items)}</ul>"


def _folded(title: str, inner: str) -> str:
    return f"<details><summary>{escaped(title)}</summary>{inner}</details>"
