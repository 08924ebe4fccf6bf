"""``python -m multierase`` and the ``multierase`` command."""

import io
import sys

from multierase.cli.third_parties import quieten

# Not in ``main``: the worker processes of a sweep import this module, and call nothing in it.
quieten()


def main() -> int:
    # A name that this terminal's encoding lacks is spelt out; it is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    from multierase.cli.console import in_lines
    from multierase.cli.main import main

    with in_lines():
        return main()


if __name__ == "__main__":
    sys.exit(main())
