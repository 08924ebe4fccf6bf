"""The verb ``app``: the page in a browser, until it is interrupted."""

from __future__ import annotations

import logging

from jsonargparse import Namespace

from multierase.app import Serving, require_gradio
from multierase.cli.console import say
from multierase.cli.requests import open_workspace, settings_of

logger = logging.getLogger(__name__)


def run_app(arguments: Namespace) -> dict:
    """Serve the page."""
    require_gradio()
    serving = settings_of(Serving, arguments)

    from multierase.app.page import serve
    from multierase.app.session import Session

    workspace = open_workspace(
        arguments, create=True, solve=arguments.solve, keep_weight=arguments.keep_weight
    )
    session = Session(workspace)
    logger.info("reading the increments and what is kept beside them")
    session.warm_up()
    page = serve(session, serving)
    logger.info("the page is at %s; Ctrl-C ends it", page.address)
    page.wait()

    return {"address": page.address, "library": arguments.library}


def print_app(report: dict) -> None:
    say(f"the page of {report['library']} is closed")
