"""The tab ``Compose``: switches, pictures of the base and the composed model side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from multierase.app.parts import follow, picture, strip
from multierase.app.plainly import MODEL, badge, told
from multierase.app.session import MOST_SUBSETS, Composed, Session
from multierase.pictures import with_strengths
from multierase.sampling import SamplingSettings

LATEST = 12  # pictures of the strip
STRONGEST = 2.0
BASE = "the base"


@dataclass(frozen=True)
class Asked:
    """The fields that say which picture is asked for."""

    prompt: gr.Textbox
    seed: gr.Number
    steps: gr.Number
    guidance: gr.Number

    @property
    def fields(self) -> list[Any]:
        """Them, in the order in which handlers take them."""
        return [self.prompt, self.seed, self.steps, self.guidance]


def compose_tab(session: Session, names: gr.State, erased: gr.BrowserState, prompt: str) -> None:
    """Build the tab.

    Args:
        names: the concepts of the library; the switches follow it.
        erased: the strengths by concept that this browser has switched to.
        prompt: that stands there at first.
    """
    redraw = gr.State(0)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown(
                "### Erased concepts\nA switch erases a concept; the number is its strength."
            )
            _switches(names, erased, redraw)
            restore = gr.Button("Restore all")
            state = gr.HTML(badge("nothing is erased", "good"), elem_id="state")
        with gr.Column(scale=3, min_width=320):
            asked = _asked(prompt)
            _pictures(session, asked, erased)
    with gr.Accordion(f"All subsets of up to {MOST_SUBSETS} concepts", open=False):
        _subsets(session, asked, names)

    @told
    def recompose(wanted: dict) -> str:
        return _state_of(session.compose(wanted))

    erased.change(recompose, erased, state, concurrency_id=MODEL, show_progress="minimal")
    restore.click(lambda turn: ({}, turn + 1), redraw, [erased, redraw], show_progress="hidden")


def _asked(prompt: str) -> Asked:
    words = gr.Textbox(prompt, label="Prompt", elem_id="prompt")
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
        steps = gr.Number(25, label="Steps", precision=0, minimum=1, min_width=90)
        guidance = gr.Number(3.0, label="Guidance", minimum=0, min_width=90)

    return Asked(words, seed, steps, guidance)


def _pictures(session: Session, asked: Asked, erased: gr.BrowserState) -> None:
    """Show the base's picture, the composed model's, their difference, and the latest sets."""
    memory = gr.State({})
    make = gr.Button("Generate", variant="primary", elem_id="generate")
    with gr.Row():
        buttons = ["download", "fullscreen"]
        shown: list[Any] = []
        for label in ("Base", "Composed", "Difference"):
            shown.append(picture(label, 260, min_width=150, buttons=buttons))
    shown.append(strip("Latest sets, at this prompt and seed"))

    @told
    def generate(
        text: str, seed: int, steps: int, guidance: float, wanted: dict, latest: dict
    ) -> tuple:
        found = session.compare(text, int(seed), wanted, _sampling(steps, guidance))
        same = (text, seed, steps, guidance)
        # Sets are compared at one prompt and seed: with another one, the strip begins anew.
        before = latest["pictures"] if latest.get("of") == same else {BASE: found.base}
        pictures = {with_strengths(wanted) or BASE: found.composed, **before}
        pictures = dict(list(pictures.items())[:LATEST])
        captioned = [(made, name) for name, made in pictures.items()]
        kept = {"of": same, "pictures": pictures}
        return found.base, found.composed, found.difference, captioned, kept

    given, outputs = [*asked.fields, erased, memory], [*shown, memory]
    make.click(generate, given, outputs, concurrency_id=MODEL, api_name="generate")
    asked.prompt.submit(generate, given, outputs, concurrency_id=MODEL)


def _subsets(session: Session, asked: Asked, names: gr.State) -> None:
    """Show one picture for each subset of a few concepts."""
    chosen = gr.Dropdown([], multiselect=True, max_choices=MOST_SUBSETS, label="Concepts")
    draw = gr.Button("Draw all subsets", elem_id="subsets")
    grid = strip("Erased, at one prompt and seed")

    @told
    def all_subsets(text: str, seed: int, steps: int, guidance: float, concepts: list) -> list:
        return session.subsets(concepts or [], text, int(seed), _sampling(steps, guidance))

    draw.click(all_subsets, [*asked.fields, chosen], grid, concurrency_id=MODEL)
    follow(names, chosen)


def _switches(names: gr.State, erased: gr.BrowserState, redraw: gr.State) -> None:
    """Show a switch and a strength for each concept, anew when the library changes."""

    @gr.render(inputs=[names, erased], triggers=[names.change, redraw.change])
    def switches(there: list[str], wanted: dict) -> None:
        if not there:
            gr.Markdown("The library is empty: erase a concept first.")
        for name in there:
            with gr.Row(elem_classes="switch"):
                on = gr.Checkbox(
                    name in wanted, label=name, interactive=True, min_width=140, scale=3
                )
                strength = gr.Number(
                    wanted.get(name, 1.0),
                    label=f"Strength of {name}",
                    show_label=False,
                    minimum=0,
                    maximum=STRONGEST,
                    step=0.1,
                    interactive=True,
                    min_width=80,
                    scale=1,
                )
            for part in (on, strength):
                part.input(_switched(name), [on, strength, erased], erased, show_progress="hidden")


def _switched(name: str) -> Any:
    def switch(on: bool, strength: float | None, wanted: dict) -> dict:
        rest = {other: value for other, value in wanted.items() if other != name}
        return {**rest, name: 1.0 if strength is None else float(strength)} if on else rest

    return switch


def _state_of(composed: Composed) -> str:
    took = f"composed in {_milliseconds(composed.seconds)}"
    if composed.is_base:
        return badge(f"The base, bit for bit ({took}).", "good")
    if composed.is_base is False:
        return badge("Nothing is erased, but the weights are not the base's.", "bad")

    return badge(f"Erased: {with_strengths(composed.erased)} ({took}).", "changed")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def _sampling(steps: int, guidance: float) -> SamplingSettings:
    return SamplingSettings(inference_steps=int(steps), guidance_scale=float(guidance))
