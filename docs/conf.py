"""Sphinx settings: `make docs` builds the site with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "clipsec"
copyright = "the clipsec authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "plugin_pages"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["results/*"]
html_theme = "furo"
html_title = "clipsec"
html_static_path: list[str] = []
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False}
# Docstrings are plain prose with `code` in single backquotes.
default_role = "code"
# Indented examples are as often a table or a command as Python.
highlight_language = "none"
