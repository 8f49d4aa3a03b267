"""`clipsec diff`: what changed between two runs."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("diff", short_help="Compare two runs of one model.")
@click.argument("first", type=click.Path(path_type=Path), metavar="A")
@click.argument("second", type=click.Path(path_type=Path), metavar="B")
@click.option(
    "--format", "output", default="console", show_default=True, type=click.Choice(["console", "json"])
)
def diff_command(first: Path, second: Path, output: str) -> int:
    """Compare the runs A and B (folders, or copies of their run.json): verdicts, scores, conditions.

    Exit codes: 0 no check is worse in B; 1 B has a finding that A does not have; 2 a check of A has no
    answer in B, a finding of A is gone (the model is the same, so the check or its conditions changed), or
    the runs cannot be compared; 3 no check answered in either.
    """
    from clipsec.reports import diff_to_json, render_diff
    from clipsec.results import compare_runs
    from clipsec.store import read_run

    comparison = compare_runs(read_run(first), read_run(second))
    if output == "json":
        click.echo(json.dumps(diff_to_json(comparison), indent=1, allow_nan=False))
    else:
        render_diff(comparison)
    return comparison.exit_code
