"""What comes from outside is shown as text, never as HTML; an error is a message."""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from multierase.errors import EXPECTED, message_of
from multierase.files import plain

MODEL = "model"  # everything that uses the model waits in one queue


def escaped(text: object) -> str:
    """Return a text with nothing in it that a browser or a terminal would obey."""
    return html.escape(plain(text))


def badge(text: str, tone: str) -> str:
    """Return a line of HTML: ``good``, ``changed`` or ``bad``, read aloud when it changes."""
    return f'<div class="badge {tone}" role="status" aria-live="polite">{escaped(text)}</div>'


def told(handler: Callable) -> Callable:
    """Turn what may go wrong into a message on the page, and leave the page as it was."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*arguments: Any) -> Iterator[Any]:
            try:
                yield from handler(*arguments)
            except EXPECTED as error:
                raise _message(error) from error

        return generator

    @functools.wraps(handler)
    def function(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except EXPECTED as error:
            raise _message(error) from error

    return function


def _message(error: BaseException) -> gr.Error:
    text = html.escape(plain(message_of(error)), quote=False)  # a message is read as HTML

    return gr.Error(text, duration=20, print_exception=False)
