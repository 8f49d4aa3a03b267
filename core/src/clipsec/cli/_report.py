"""`clipsec report`: render a finished run again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report", short_help="Render a finished run again.")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--format", "output", default="console", show_default=True, type=click.Choice(["console", "html", "json"])
)
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file."
)
@click.option("-v", "--verbose", is_flag=True, help="Every class in the console table.")
def report_command(run: Path, output: str, target: Path | None, verbose: bool) -> int:
    """Render RUN (a run's folder or its run.json); the exit code is the run's own."""
    from clipsec.reports import render_console, render_html, render_json
    from clipsec.store import RunFolder, atomic_write

    folder = run if run.is_dir() else run.parent
    result = RunFolder(folder).read_result()
    if output == "console" and target is None:
        render_console(result, verbose=verbose)
        return result.exit_code
    text = render_html(result, folder) if output == "html" else render_json(result)
    if target is None:
        click.echo(text)
    else:
        atomic_write(target, text.encode())
    return result.exit_code
