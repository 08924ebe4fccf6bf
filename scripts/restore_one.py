"""Restore one concept, and write the model as a diffusers pipeline: to be copied and edited.

python scripts/restore_one.py --library lib/ --restore Twemoji --out served/
"""

from __future__ import annotations

import argparse

from multierase import Workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--restore", required=True)
    parser.add_argument("--base", default="emoji")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()

    workspace = Workspace(arguments.library, arguments.base)
    workspace.erase(*workspace.library)  # everything that the library holds is erased ...
    workspace.restore(arguments.restore)  # ... and this one is as if it had never been

    folder = workspace.export(arguments.out)["file"]
    print(folder, "with", ", ".join(workspace.erased) or "nothing", "erased")


if __name__ == "__main__":
    main()
