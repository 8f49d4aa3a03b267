"""`clipsec plugin check`: the conformance battery on an installed plugin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from clipsec.cli._table import print_table
from clipsec.errors import UsageError
from clipsec_registry import Kind, Registry, find_lock, printable

TESTKITS = "clipsec.testkits"
"""Entry-point group of the battery: core may not import a plugin, so it asks for it by this name."""
TESTKIT = "clipsec-testkit"

_STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


@click.command("check", short_help="Run the conformance checks on a plugin.")
@click.argument("name", metavar="PLUGIN")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in Kind]), help="Its kind, if the name is not enough."
)
@click.option(
    "-o",
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the plugin for the controls, e.g. fewer steps (repeatable).",
)
@click.option(
    "--detects",
    multiple=True,
    metavar="BACKDOOR",
    help="A detector: a toy backdoor that it must find: visual, textual or prompt (repeatable).",
)
@click.option("--spec", metavar="SPEC", help="A loader: something that it loads.")
@click.option(
    "--lock", type=click.Path(path_type=Path, dir_okay=False), help="Check only what this clipsec.lock lists."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
def check_command(
    name: str,
    kind: str | None,
    options: tuple[str, ...],
    detects: tuple[str, ...],
    spec: str | None,
    lock: Path | None,
    as_json: bool,
) -> int:
    """Run the checks of clipsec-testkit on an installed plugin, in this process: it must be one you trust.

    What the flags do not say is taken from the plugin's own class attribute `conformance`. Exit codes: 0 no
    check failed, 1 some failed, 2 the plugin or the testkit could not be loaded.
    """
    registry = Registry(lock=lock or find_lock())
    record = registry.find(kind, name)
    plugin = registry.load(record, strict=True)
    run_checks = _battery()
    settings: dict[str, Any] = {}
    if options:
        settings["options"] = dict(_pair(text) for text in options)
    if detects:
        settings["detects"] = frozenset(detects)
    if spec is not None:
        settings["spec"] = spec
    if not as_json:
        click.echo(f"Checking {record.canonical_name} {printable(record.version)} ...", err=True)
    results = list(run_checks(record.kind, plugin, settings))
    failed = sum(result.outcome == "failed" for result in results)
    if as_json:
        lines = [
            {"check": result.check, "outcome": str(result.outcome), "why": printable(result.why)}
            for result in results
        ]
        click.echo(json.dumps({"plugin": record.canonical_name, "checks": lines}, indent=2))
    else:
        _print(results)
    return 1 if failed or not results else 0


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"{text!r} is not an option", remedy="Write KEY=VALUE.")
    return key, value


def _battery() -> Callable[..., Iterator[Any]]:
    """The checks of the installed testkit. Raises `UsageError` with exit code 2 when it is not there."""
    for point in entry_points(group=TESTKITS):
        # Nobody else's package may say that a plugin passes.
        if point.dist is not None and point.dist.name.lower().replace("_", "-") == TESTKIT:
            battery: Callable[..., Iterator[Any]] = point.load()
            return battery
    error = UsageError(
        "the conformance checks are not installed", remedy=f"Run `pip install {TESTKIT}`, then try again."
    )
    error.exit_code = 2
    raise error


def _print(results: list[Any]) -> None:
    from rich.text import Text

    print_table(
        ("check", "outcome", "why"),
        (
            (
                result.check,
                Text(str(result.outcome), style=_STYLES[str(result.outcome)]),
                printable(result.why, 300),
            )
            for result in results
        ),
    )
    counts = {word: sum(str(result.outcome) == word for result in results) for word in _STYLES}
    line = f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
    click.echo(line + (" (a skipped check says nothing)" if counts["skipped"] else ""))
