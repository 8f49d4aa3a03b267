"""`clipsec report`: render a finished run again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from clipsec.errors import StoreError


@click.command("report", short_help="Render a finished run again.")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--format", "output", default="console", show_default=True, type=click.Choice(["console", "html", "json"]))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@click.option("-v", "--verbose", is_flag=True, help="Every class in the console table.")
def report_command(run: Path, output: str, target: Path | None, verbose: bool) -> int:
    """Render RUN (a run's folder or its run.json); the exit code is the run's own."""
    from clipsec.reports import render_console, render_html, render_json
    from clipsec.results import from_json
    from clipsec.store import atomic_write

    path = run / "run.json" if run.is_dir() else run
    try:
        result = from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}", remedy="Name a run's folder.") from error
    if output == "console" and target is None:
        render_console(result, verbose=verbose)
        return result.exit_code
    text = render_html(result, path.parent) if output == "html" else render_json(result)
    if target is None:
        click.echo(text)
    else:
        atomic_write(target, text.encode())
    return result.exit_code
