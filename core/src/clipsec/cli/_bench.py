"""`clipsec bench`: build and audit a suite of clean and poisoned models, and say how good detectors are."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsec.errors import UsageError

if TYPE_CHECKING:
    from clipsec.bench import BenchResult, Tally

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("bench", short_help="Measure detectors on a suite of clean and poisoned models.")
@click.argument("suite", type=click.Path(path_type=Path, dir_okay=False), metavar="SUITE.toml")
@click.option("--data", required=True, type=_FOLDER, help="Folder with the data sets of the suite.")
@click.option("--out", required=True, type=_FOLDER, help="Where models, verdicts and tables are stored.")
@click.option("--pool", type=_FOLDER, help="Unlabelled pictures, in place of those the suite names.")
@click.option("--half", "halves", multiple=True, metavar="NAME", help="This half only (repeatable).")
@click.option(
    "--only",
    type=click.Choice(["models", "audits", "repairs", "report"]),
    help="Only build models, only audit or repair those there are, or only write the report.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Do at most N units this time.")
@click.option(
    "--shared",
    type=_FOLDER,
    help="Where results about a base are kept for other runs.  [default: the user's cache]",
)
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option(
    "--any-code",
    is_flag=True,
    help="Use what another state of a plugin's code of the same version made; the report says so.",
)
@click.option("--lock", metavar="FILE", help="Import only what this clipsec.lock lists.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no line for each unit.")
def bench_command(
    suite: Path,
    data: Path,
    out: Path,
    pool: Path | None,
    halves: tuple[str, ...],
    only: str | None,
    limit: int | None,
    shared: Path | None,
    device: str,
    any_code: bool,
    lock: str | None,
    quiet: bool,
) -> int:
    """Build the models of SUITE.toml, audit each with every detector, write tables, curves and error rates.

    What is finished is stored and not done again, so the same command goes on after a kill. Two of them may
    work on one output folder at the same time.

    Exit codes: 0 all that was asked for is done, 2 a unit failed, 3 nothing could be done, 4 the suite cannot
    be run.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from clipsec.bench import KINDS, Bench, make_plan, read_suite, work, write_report
    from clipsec.cli._unit_bar import UnitBar
    from clipsec.runner import usable_shared_folder, use_all_cores
    from clipsec_registry import Registry, find_lock

    use_all_cores()
    read = read_suite(suite)
    unknown = [half for half in halves if half not in read.halves]
    if unknown:
        raise UsageError(
            f"the suite has no half {unknown[0]!r}", remedy=f"Its halves: {', '.join(read.halves)}."
        )
    if not data.is_dir():
        raise UsageError(f"there is no folder {data}", remedy="Name the folder that holds the data sets.")
    plan = make_plan(
        read,
        data=data,
        pool=pool,
        registry=Registry(lock=lock or find_lock()),
        suite_folder=suite.parent,
        where=str(suite),
        device=device,
    )
    bench = Bench(plan, out, shared=shared or usable_shared_folder(out), any_code=any_code)
    tally = None
    if only != "report":
        with UnitBar(enabled=not quiet) as bar:
            tally = work(
                bench,
                halves=halves,
                kinds=KINDS if only is None else (only,),
                limit=limit,
                watcher=None if quiet else bar,
            )
    result = write_report(bench)
    _summarise(result, tally)
    for line in failures(result):
        click.echo(line, err=True)
    click.echo(f"Report: {out / 'bench.html'}")
    states = {line.state for line in result.models} | {line.state for line in result.verdicts}
    states |= {line.state for line in result.repairs}
    if "failed" in states:
        return 2
    return 0 if "built" in states else 3


def failures(result: BenchResult) -> list[str]:
    """A line for each reason why units failed, the most frequent first; without, exit code 2 says nothing."""
    from clipsec.cli._main import printable

    reasons = Counter("; ".join(line.reasons) for line in result.models if line.state == "failed")
    for lines in (result.verdicts, result.repairs):
        reasons.update(line.reason for line in lines if line.state == "failed")
    return [printable(f"{count} failed: {reason}") for reason, count in reasons.most_common()]


def _summarise(result: BenchResult, tally: Tally | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from clipsec.reports._text import percent

    if tally is not None:
        click.echo(
            f"{tally.done} done, {tally.stored} were there, {tally.failed} failed, {tally.left} left over."
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("Half", "Detector", "Clean", "Backdoored", "AUROC", "Found", "Passed", "F1"):
        table.add_column(heading, justify="left" if heading in ("Half", "Detector") else "right")
    for row in result.rows:
        found = row.quality
        if row.scope == "all" and found.clean + found.backdoored:
            table.add_row(
                row.half,
                row.detector,
                str(found.clean),
                str(found.backdoored),
                "" if found.auroc is None else f"{found.auroc.value:.3f}",
                percent(found.sensitivity.value),
                percent(found.specificity.value),
                "" if found.f1_attacks is None else f"{found.f1_attacks:.2f}",
            )
    if table.row_count:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 200  # in a log nothing should be cut
        console.print(table)
    for line in result.models:
        if line.state == "built" and not line.counts:
            click.echo(f"{line.name} does not count: {'; '.join(line.reasons)}")
