"""The site's settings: ``python -m sphinx -W --keep-going -b html docs OUT``.

Needs the extra ``docs``. The pages are read from Markdown; those parts of the reference that the
code knows are written by ``docs/_ext/from_code.py`` while the site is built.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import multierase  # noqa: E402, as it is installed

project = "multierase"
author = "the multierase authors"
copyright = "the multierase authors; MIT licence"
version = release = multierase.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
highlight_language = "none"  # indented blocks are commands

# GitHub's anchors, so that a link to a heading works there and here.
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"multierase {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]


def setup(app) -> None:
    """Write signatures as a reader of the code sees them."""
    app.connect("autodoc-process-signature", plain_signature)


def plain_signature(app, what, name, thing, options, signature, returns) -> tuple:
    """Return names without their modules, and ``...`` for a default that is made anew."""
    if signature:
        signature = re.sub(r"~(?:\w+\.)+(\w+)", r"\1", signature).replace("<factory>", "...")

    return signature, returns
