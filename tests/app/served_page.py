"""The command ``multierase app`` in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

HOSTILE = "<img src=x onerror=document.title='gone'>"  # a concept's name
READY = "the page is at "


class Served:
    """A page that the command serves, until ``close``."""

    def __init__(self, folder: Path, *flags: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "multierase", "app", "--library", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )
        self.said: list[str] = []
        self.address = self._address()
        # Whoever does not read a pipe stops the process that writes to it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._reader.join()
        self.process.stderr.close()

    def _address(self) -> str:
        for line in self.process.stderr:
            self.said.append(line)
            if READY in line:
                return line.split(READY)[1].split(";")[0]
        raise AssertionError(f"the page did not start: {''.join(self.said)}")

    def _read(self) -> None:
        self.said += list(self.process.stderr)
