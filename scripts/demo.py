"""The quick start: audit the three deliveries that clipsec-zoo ships, and compare with the truth.

Run by `make demo`. Exits with 0 only when every verdict is right.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

import clipsec_zoo
from clipsec.cli import main
from clipsec.results import Outcome
from clipsec.store import RunStore

RUNS = Path("runs")


def demo() -> int:
    truth = clipsec_zoo.answers()
    began = time.monotonic()
    chosen = ["--detector", "clip-inspector-plus"]  # which runs by default; named, the others are not listed
    arguments = ["run", *(f"zoo:{name}" for name in truth), "--runs", str(RUNS), *chosen]
    click.secho(f"$ clipsec {' '.join(arguments)}", bold=True)
    try:
        main(arguments)
    except SystemExit as stop:
        code = stop.code
    seconds = time.monotonic() - began
    click.secho(f"\nexit code {code} (1 means: something was found); {seconds:.0f} s", bold=True)
    results = [run.read_result() for run in RunStore(RUNS).runs()]
    wrong = 0
    for name, answer in truth.items():
        verdicts = [
            v for result in results if result.suspect.name == f"zoo:{name}" for v in result.verdicts.values()
        ]
        expected = Outcome.CLEAN if answer.target is None else Outcome.FINDING
        right = bool(verdicts) and all((v.outcome, v.target) == (expected, answer.target) for v in verdicts)
        wrong += not right
        said = ", ".join(f"{v.outcome} {v.target or ''}".strip() for v in verdicts) or "nothing"
        what = "clean" if answer.target is None else f"{answer.attack} backdoor, target {answer.target}"
        click.echo(f"  {'right' if right else 'WRONG'}  {name}: is {what}; clipsec says {said}")
    click.echo("\nReports (open in a browser):")
    for report in sorted(RUNS.glob("*/report.html")):
        click.echo(f"  {report}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(demo())
