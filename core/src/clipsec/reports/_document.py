"""The reports that are files."""

from __future__ import annotations

from pathlib import Path

from clipsec.reports._console import REPORT_FILE
from clipsec.reports._html import render_html
from clipsec.results import RunResult, to_text
from clipsec.store import atomic_write


def render_json(result: RunResult) -> str:
    """The run as the JSON text that `run.json` holds. Raises `ContractError` like `to_json`."""
    return to_text(result)


def write_html(result: RunResult, folder: str | Path) -> Path:
    """Write the HTML report into the run's folder and say where. Raises `StoreError`."""
    path = Path(folder) / REPORT_FILE
    atomic_write(path, render_html(result, folder).encode("utf-8"))
    return path
