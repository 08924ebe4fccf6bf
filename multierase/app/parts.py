"""Components that several tabs show alike."""

from __future__ import annotations

from typing import Any

import gradio as gr


def picture(label: str, height: int, **more: Any) -> gr.Image:
    """Make a place for a picture, which fills it."""
    return gr.Image(
        label=label,
        type="pil",
        format="png",
        interactive=False,
        height=height,
        elem_classes="picture",
        **more,
    )


def strip(label: str) -> gr.Gallery:
    """Make a place for small pictures, each with its words below it."""
    return gr.Gallery(label=label, object_fit="contain", height="auto", elem_classes="strip")


def follow(names: gr.State, several: gr.Dropdown) -> None:
    """Let a choice of several concepts offer those that the library has."""
    names.change(lambda there: gr.Dropdown(choices=there), names, several, show_progress="hidden")
