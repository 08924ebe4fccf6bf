"""``python -m multierase`` and the ``multierase`` command."""

import io
import os
import sys


def main() -> int:
    # Before transformers is imported: its notices of optional packages are not about what the
    # user did.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    # A name that this terminal's encoding lacks is spelt out; it is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    from multierase.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
