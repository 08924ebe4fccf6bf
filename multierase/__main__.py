"""``python -m multierase`` and the ``multierase`` command."""

import os
import sys


def main() -> int:
    # Before transformers is imported: its notices of optional packages are not about what the user did.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from multierase.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
