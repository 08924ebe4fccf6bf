"""The page: erase, switch, restore and compare in a browser. Every button calls the library."""

from __future__ import annotations

from dataclasses import dataclass

from multierase.errors import MissingExtra, UsageError


@dataclass(frozen=True)
class Serving:
    """How the page is served, and where.

    Args:
        host: address that the page listens on; 127.0.0.1 is this machine alone.
        port: number of the port; by default the first free one from 7860 on.
        share: make a public address as well, through Gradio's servers.
        upload_mib: size of an uploaded file in MiB, at most.

    Raises:
        UsageError: for numbers out of range.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    upload_mib: int = 2048

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: give a number from 1 to 65535")
        if self.upload_mib < 1:
            raise UsageError(f"--upload_mib {self.upload_mib}: give 1 or more")


def require_gradio() -> None:
    """Raise ``MissingExtra`` unless Gradio is installed."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the page needs Gradio: pip install 'multierase[app]'") from error
