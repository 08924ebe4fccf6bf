"""Give one concept back, and write the rest as a diffusers pipeline: what a user copies and edits.

python scripts/restore_one.py --library lib/ --restore Twemoji --out served/
"""

import argparse

from multierase import Composer, Library, export_pipeline, load_base

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--library", required=True)
parser.add_argument("--restore", required=True)
parser.add_argument("--base", default="emoji")
parser.add_argument("--out", required=True)
arguments = parser.parse_args()

base, library = load_base(arguments.base), Library(arguments.library)
composer = Composer(base.unet, library)
composer.erase(*library)  # everything the library holds is off ...
composer.restore(arguments.restore)  # ... and this one is as if it had never been
print(export_pipeline(base, composer, arguments.out), "without", sorted(composer.off))
