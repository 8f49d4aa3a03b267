"""`clipsec list`: which plugins are installed, whose they are, and whether they can be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsec.cli._table import print_table
from clipsec_registry import Kind, PluginRecord, Registry, Status, find_lock

if TYPE_CHECKING:
    from rich.text import Text

_STYLES = {
    Status.OK: "green",
    Status.FAILED: "red",
    Status.UNTRUSTED: "yellow",
    Status.INCOMPATIBLE: "yellow",
    Status.CONFLICTING: "yellow",
}


@click.command("list", short_help="Every plugin: kind, name, version, whose, status and why.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind.value for kind in Kind]),
    help="Only plugins of this kind; may be repeated.",
)
@click.option(
    "--load", is_flag=True, help="Import each plugin, which runs its code, and show what comes of it."
)
@click.option(
    "--lock",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Trust only what FILE lists.  [default: $CLIPSEC_LOCK, or clipsec.lock here if it exists]",
)
@click.option(
    "--plugin-path",
    "plugin_paths",
    multiple=True,
    metavar="FILE",
    help="Show the plugins of this unpackaged .py file too; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
def list_command(
    kinds: tuple[str, ...], load: bool, lock: Path | None, plugin_paths: tuple[str, ...], as_json: bool
) -> int:
    """Show every installed plugin, whose it is, and why one cannot be used.

    Without --load no plugin is imported: `ok` then means that nothing is known against it. A plugin that
    cannot be used does not make this command fail; `clipsec run --require NAME` does.
    """
    registry = Registry(*kinds, lock=lock or find_lock(), local=plugin_paths)
    if load:
        for record in registry.records():
            registry.load(record)
    records = registry.records()
    if as_json:
        under = str(registry.lock.path) if registry.lock is not None else None
        click.echo(json.dumps({"lock": under, "plugins": [record.to_dict() for record in records]}, indent=2))
        return 0
    if records:
        _print_table(records)
        _print_remedies(records)
    else:
        click.echo("No plugin is installed" + (f" of the kind {', '.join(kinds)}." if kinds else "."))
    if registry.lock is not None:
        click.echo(f"Under the lock {click.format_filename(registry.lock.path or '')}.")
    return 0


def why(record: PluginRecord) -> str:
    """The last column: the reason, and for a plugin that seems fine whether it was ever imported."""
    imported = "" if record.loaded or record.status is not Status.OK else "not imported yet"
    return "; ".join(filter(None, [imported, record.reason]))


def _print_table(records: Sequence[PluginRecord]) -> None:
    columns = ("kind", "name", "version", "distribution", "licence", "status", "why")
    print_table(columns, map(_row, records))


def _row(record: PluginRecord) -> list[str | Text]:
    from rich.text import Text

    version = record.version[: len("sha256:") + 12] if record.local else record.version
    status = Text(record.status.value, style=_STYLES[record.status])
    licence = record.licence or "not stated"
    return [record.kind.value, record.name, version, record.distribution, licence, status, why(record)]


def _print_remedies(records: Sequence[PluginRecord]) -> None:
    troubled = [record for record in records if record.status is not Status.OK]
    if troubled:
        click.echo()
    for record in troubled:
        click.echo(f"{record.canonical_name}: {record.remedy}")
