"""Report formats: ours, and those that plugins of kind `reports` bring."""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from clipsec.errors import ReportError, UsageError
from clipsec.reports._console import render_console
from clipsec.reports._document import render_json
from clipsec.reports._html import render_html
from clipsec.reports._junit import join_junit, render_junit
from clipsec.reports._sarif import join_sarif, render_sarif
from clipsec.results import RunResult
from clipsec_registry import PluginError, Registry

KIND = "reports"
_PLAIN_WIDTH = 120


class ConsoleFormat:
    """What `clipsec run` prints, without colours."""

    summary: ClassVar[str] = "the console report as plain text"
    api_version: ClassVar[str] = "1.0"
    suffix: ClassVar[str] = ".txt"

    def render(self, result: RunResult, folder: Path, *, baseline: RunResult | None = None) -> str:
        """Plain text."""
        stream = io.StringIO()
        console = Console(
            file=stream, width=_PLAIN_WIDTH, highlight=False, color_system=None, force_terminal=False
        )
        render_console(result, console, baseline=baseline)
        return stream.getvalue()

    def join(self, texts: Sequence[str]) -> str:
        """One after the other."""
        return "".join(texts)


class HtmlFormat:
    """One self-contained page."""

    summary: ClassVar[str] = "one self-contained page with charts and pictures"
    api_version: ClassVar[str] = "1.0"
    suffix: ClassVar[str] = ".html"

    def render(self, result: RunResult, folder: Path) -> str:
        """See `render_html`."""
        return render_html(result, folder)


class JsonFormat:
    """The whole run, as `run.json` holds it."""

    summary: ClassVar[str] = "the whole run as JSON, with a published schema"
    api_version: ClassVar[str] = "1.0"
    suffix: ClassVar[str] = ".json"

    def render(self, result: RunResult, folder: Path) -> str:
        """See `render_json`."""
        return render_json(result)


class JunitFormat:
    """JUnit XML."""

    summary: ClassVar[str] = "JUnit XML for the test views of CI servers"
    api_version: ClassVar[str] = "1.0"
    suffix: ClassVar[str] = ".xml"

    def render(self, result: RunResult, folder: Path, *, baseline: RunResult | None = None) -> str:
        """See `render_junit`."""
        return render_junit(result, baseline=baseline)

    def join(self, texts: Sequence[str]) -> str:
        """See `join_junit`."""
        return join_junit(texts)


class SarifFormat:
    """SARIF 2.1.0."""

    summary: ClassVar[str] = "SARIF 2.1.0 for code scanning"
    api_version: ClassVar[str] = "1.0"
    suffix: ClassVar[str] = ".sarif"

    def render(self, result: RunResult, folder: Path, *, baseline: RunResult | None = None) -> str:
        """See `render_sarif`."""
        return render_sarif(result, baseline=baseline)

    def join(self, texts: Sequence[str]) -> str:
        """See `join_sarif`."""
        return join_sarif(texts)


_OURS: dict[str, Any] = {
    "console": ConsoleFormat,
    "html": HtmlFormat,
    "json": JsonFormat,
    "junit": JunitFormat,
    "sarif": SarifFormat,
}


def find_format(name: str, registry: Registry) -> Any:
    """The class of a report format: `html`, or a plugin's name, bare or canonical.

    Ours need no entry in a lock file: they are part of the program that reads it. Raises `UsageError` for a
    name that nobody offers, `PluginError` for a plugin that cannot be used.
    """
    ours = _OURS.get(name.removeprefix("clipsec/"))
    if ours is not None:
        return ours
    try:
        record = registry.find(KIND, name)
    except PluginError as error:
        others = [
            record.canonical_name for record in registry.records(KIND) if record.distribution != "clipsec"
        ]
        known = ", ".join([*_OURS, *others])
        raise UsageError(str(error), remedy=f"{error.remedy} Formats here: {known}.") from error
    return registry.load(record, strict=True)


def render_report(
    format_class: Any, result: RunResult, folder: str | Path, *, baseline: RunResult | None = None
) -> str:
    """The run in one format. The baseline is given to formats that take one.

    Raises `ReportError`, whatever the format raised, so that the caller can go on with the others.
    """
    return _guarded(format_class, lambda: _render(format_class(), result, Path(folder), baseline))


def join_reports(format_class: Any, texts: Sequence[str]) -> str:
    """Several reports of one format as one document. Raises `ReportError`."""
    if len(texts) == 1:
        return texts[0]
    if not can_join(format_class):
        raise ReportError(
            f"a report of the format {_name(format_class)} holds one run",
            remedy="Render each run by itself: clipsec report RUN --format NAME.",
        )
    return _guarded(format_class, lambda: format_class().join(texts))


def can_join(format_class: Any) -> bool:
    """Whether one document of this format can hold several runs."""
    return callable(getattr(format_class, "join", None))


def _render(report: Any, result: RunResult, folder: Path, baseline: RunResult | None) -> Any:
    if "baseline" in inspect.signature(report.render).parameters:
        return report.render(result, folder, baseline=baseline)
    return report.render(result, folder)


def _guarded(format_class: Any, work: Any) -> str:
    name = _name(format_class)
    try:
        # What a plugin prints must not land in the report on stdout.
        with contextlib.redirect_stdout(sys.stderr):
            text = work()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit in a plugin does not end the program
        raise ReportError(
            f"the report format {name} failed: {type(error).__name__}: {error}",
            remedy="The run itself is stored; choose another format, and tell the format's author.",
        ) from error
    if not isinstance(text, str):
        raise ReportError(
            f"the report format {name} returned {type(text).__name__}, not a text",
            remedy="The run itself is stored; choose another format, and tell the format's author.",
        )
    return text


def _name(format_class: Any) -> str:
    for name, ours in _OURS.items():
        if ours is format_class:
            return name
    return str(getattr(format_class, "__qualname__", format_class))
