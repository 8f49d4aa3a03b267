"""A run for people and machines: console, JSON, and one self-contained HTML page."""

from clipsec.reports._console import REPORT_FILE, render_console
from clipsec.reports._document import render_json, write_html
from clipsec.reports._html import render_html

__all__ = [
    "REPORT_FILE",
    "render_console",
    "render_html",
    "render_json",
    "write_html",
]
