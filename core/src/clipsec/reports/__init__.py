"""A run for people and machines: console, JSON, one self-contained HTML page, SARIF, JUnit; two runs
compared."""

from clipsec.reports._console import REPORT_FILE, render_console
from clipsec.reports._diff import diff_to_json, render_diff
from clipsec.reports._document import render_json, write_html
from clipsec.reports._exposure import render_exposure
from clipsec.reports._exposure_html import render_exposure_html
from clipsec.reports._formats import (
    ConsoleFormat,
    HtmlFormat,
    JsonFormat,
    JunitFormat,
    SarifFormat,
    can_join,
    find_format,
    join_reports,
    render_report,
)
from clipsec.reports._html import render_html
from clipsec.reports._junit import join_junit, render_junit
from clipsec.reports._repair import render_repair
from clipsec.reports._sarif import join_sarif, render_sarif
from clipsec.reports._words import exit_sentence

__all__ = [
    "REPORT_FILE",
    "ConsoleFormat",
    "HtmlFormat",
    "JsonFormat",
    "JunitFormat",
    "SarifFormat",
    "can_join",
    "diff_to_json",
    "exit_sentence",
    "find_format",
    "join_junit",
    "join_reports",
    "join_sarif",
    "render_console",
    "render_diff",
    "render_exposure",
    "render_exposure_html",
    "render_html",
    "render_json",
    "render_junit",
    "render_repair",
    "render_report",
    "render_sarif",
    "write_html",
]
