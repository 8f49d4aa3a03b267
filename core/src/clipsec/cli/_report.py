"""`clipsec report`: render a finished run again."""

from __future__ import annotations

from pathlib import Path

import click

from clipsec.cli._outputs import Outputs, exit_options, read_baselines


@click.command("report", short_help="Render a finished run again.")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--format",
    "output",
    default="console",
    show_default=True,
    metavar="NAME",
    help="console, html, json, junit, sarif, or a format that a plugin brings.",
)
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file."
)
@exit_options
@click.option(
    "--plugin-path",
    "plugin_paths",
    multiple=True,
    metavar="FILE",
    help="Use the formats of this unpackaged .py file too, as local/NAME; runs its code (repeatable).",
)
@click.option("-v", "--verbose", is_flag=True, help="Every class in the console table.")
def report_command(
    run: Path,
    output: str,
    target: Path | None,
    fail_on: tuple[str, ...],
    baseline: str | None,
    plugin_paths: tuple[str, ...],
    verbose: bool,
) -> int:
    """Render RUN (a run's folder or its run.json); the exit code is the run's own.

    --baseline and --fail-on change the exit code as they do for `clipsec run`.
    """
    from clipsec.reports import exit_sentence, render_report
    from clipsec.results import counted_outcomes, exit_code
    from clipsec.store import atomic_write, read_run
    from clipsec_registry import Registry, find_lock

    registry = Registry("reports", lock=find_lock(), local=plugin_paths)
    outputs = Outputs.of(
        output, (), registry, baselines=read_baselines(baseline), fail_on=fail_on, verbose=verbose
    )
    result = read_run(run)
    if target is None:
        outputs.add(result)
        return outputs.finish()
    known = outputs.baselines.get(result.suspect.digest)
    folder = run if run.is_dir() else run.parent
    atomic_write(target, render_report(outputs.shown_class, result, folder, baseline=known).encode())
    code = exit_code(counted_outcomes(result, known), outputs.fail_on)
    if code != result.exit_code:
        click.echo(exit_sentence(result, known, outputs.fail_on), err=True)
    return code
