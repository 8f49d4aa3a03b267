"""`clipsec plugin`: write a new one, check one, write down which may be imported."""

from __future__ import annotations

from pathlib import Path

import click

from clipsec.cli._check import check_command
from clipsec.cli._new import new_command
from clipsec_registry import LOCK_NAME, Lock, PluginRecord, Registry, Status, find_lock, read_lock, write_lock


@click.group("plugin", short_help="Write, check and trust plugins.")
def plugin_group() -> None:
    """Write, check and trust plugins."""


plugin_group.add_command(check_command)


plugin_group.add_command(new_command)


@plugin_group.command("trust", short_help="Write the lock file.")
@click.argument("names", nargs=-1, metavar="[PLUGIN | DISTRIBUTION]...")
@click.option(
    "--lock",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"The lock file to write.  [default: $CLIPSEC_LOCK, or {LOCK_NAME} in this folder]",
)
def trust_command(names: tuple[str, ...], lock: Path | None) -> int:
    """Write the lock file: which distributions may be imported, in which version, with which files.

    With names, those are added to the file or brought up to date and the others stay; without, the file is
    written anew from everything installed, except plugins whose name belongs to others. Nothing is imported.
    From then on `clipsec list` and `clipsec run` import nothing else.
    """
    path = lock or find_lock() or Path(LOCK_NAME)
    registry = Registry()
    before = read_lock(path) if path.exists() and names else Lock()
    if names:
        chosen = [record for name in names for record in _named(registry, name)]
    else:
        chosen = [record for record in registry.records() if record.status in (Status.OK, Status.FAILED)]
    after = write_lock(path, before.updated(Lock.of(chosen)))
    for name, entry in after.distributions.items():
        old = before.distributions.get(name)
        verb = "kept" if entry == old else "trusted" if old is None else "updated"
        editable = ", editable: every edit of it asks for trust again" if entry.editable else ""
        click.echo(f"{verb} {name} {entry.version} ({len(entry.files)} files{editable})")
    for record in registry.records():
        if record.distribution not in after.distributions:
            click.echo(f"left out {record.canonical_name}: {record.reason or 'not named'}")
    click.echo(f"Wrote {click.format_filename(path)}.")
    return 0


def _named(registry: Registry, name: str) -> list[PluginRecord]:
    """All plugins of the distribution called `name`, else the one plugin called so."""
    wanted = name.lower().replace("_", "-").replace(".", "-")
    of_distribution = [record for record in registry.records() if record.distribution == wanted]
    return of_distribution or [registry.find(None, name)]
