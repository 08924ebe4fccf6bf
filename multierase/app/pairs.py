"""The tab ``Blind pairs``: does a sixth picture belong to five others? People say it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from multierase.app.parts import follow, picture, strip
from multierase.app.plainly import MODEL, badge, told
from multierase.app.session import Session
from multierase.app.studying import Asked, Studies
from multierase.evaluation.pairs.study import ASKED, CONDITIONS, SCALE

ABOUT = """A small user study, as in the ESD paper. Five pictures of a concept are the base's. The
sixth is the base's too, or the model's with these concepts erased, or shows another concept; nobody
is told which. The answers are a CSV file in the library's folder."""
COLUMNS = ["sixth picture", "mean rating", "95% interval", "answers", "people"]


def pairs_tab(session: Session, names: gr.State) -> None:
    """Build the tab.

    Args:
        names: the concepts of the library, which can be asked about.
    """
    studies = Studies(session)
    study, asked = gr.State(""), gr.State(None)
    gr.Markdown(ABOUT)
    with gr.Row():
        concepts = gr.Dropdown([], multiselect=True, label="Concepts", elem_id="pairs-concepts")
        count = gr.Number(4, label="Questions of each kind", precision=0, minimum=1, min_width=120)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
        person = gr.Textbox("", label="Participant", placeholder="a name of your choice")
    begin = gr.Button("Begin, or go on", variant="primary", elem_id="pairs-begin")
    state = gr.HTML(badge("no study is open", "good"), elem_id="pairs-state")

    with gr.Column(visible=False) as question:
        five = strip("Five")
        sixth = picture("The sixth", 260, elem_id="pairs-sixth")
        rating = gr.Radio(_scale(), label=ASKED, elem_id="pairs-rating")
        go_on = gr.Button("Next", variant="primary", elem_id="pairs-next")

    with gr.Accordion("Summary", open=False):
        sum_up = gr.Button("Sum up", elem_id="pairs-summary")
        words = gr.Textbox("", label="In words", interactive=False, lines=2)
        table = gr.Dataframe(headers=COLUMNS, datatype="str", interactive=False)
        file = gr.File(label="Answers", interactive=False)

    follow(names, concepts)
    shown = [state, question, five, sixth, rating, asked]
    begin.click(
        _begin(studies),
        [concepts, count, seed, person],
        [study, *shown],
        concurrency_id=MODEL,
    )
    go_on.click(
        _go_on(studies),
        [study, person, asked, rating],
        shown,
        concurrency_id=MODEL,
    ).success(
        told(studies.prepare),
        [study, person],
        concurrency_id=MODEL,
        show_progress="hidden",
    )
    sum_up.click(_sum_up(studies), study, [words, table, file])


def _begin(studies: Studies) -> Any:
    @told
    def begin(concepts: list, count: int, seed: int, person: str) -> tuple:
        study = studies.begin(concepts or [], int(count), int(seed))

        return study, *_shown(studies.next(study, person))

    return begin


def _go_on(studies: Studies) -> Any:
    @told
    def go_on(study: str, person: str, asked: Asked | None, rating: int | None) -> tuple:
        if asked is None:
            raise ValueError("begin a study first")
        if rating is None:
            raise ValueError("choose one of the five answers first")
        studies.answer(study, person, asked, int(rating))

        return _shown(studies.next(study, person))

    return go_on


def _sum_up(studies: Studies) -> Any:
    @told
    def sum_up(study: str) -> tuple:
        found = studies.summary(study)
        rows = []
        for condition in CONDITIONS:
            one = found["conditions"].get(condition)
            if one:
                rows.append(
                    [
                        condition,
                        f"{one['mean']:.2f}",
                        _interval(one["low"], one["high"]),
                        str(one["n"]),
                        str(one["participants"]),
                    ]
                )

        return found["words"], rows, str(studies.file(study))

    return sum_up


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _shown(asked: Asked | None) -> tuple:
    """Return what the page shows: state, question, five pictures, the sixth, rating, memory."""
    if asked is None:
        done = badge("All questions are answered. Thank you.", "good")
        return done, gr.Column(visible=False), None, None, None, None

    state = badge(f"{asked.left} questions left. Look at the five pictures first.", "changed")
    pictures = list(asked.references)
    return state, gr.Column(visible=True), pictures, asked.sixth, None, asked


def _scale() -> list[tuple[str, int]]:
    return [(f"{rating}: {words}", rating) for rating, words in SCALE.items()]
