"""`clipsec plugin trust`: write down which plugins may be imported, and who vouched for them."""

from __future__ import annotations

from pathlib import Path

import click

from clipsec.errors import UsageError
from clipsec_registry import (
    LOCK_NAME,
    ByPublisher,
    BySignature,
    Lock,
    LockError,
    PluginRecord,
    Registry,
    Status,
    find_lock,
    read_lock,
    read_public_key,
    trust,
    write_lock,
)

_File = click.Path(path_type=Path, dir_okay=False)


@click.command("trust", short_help="Write the lock file.")
@click.argument("names", nargs=-1, metavar="[PLUGIN | DISTRIBUTION]...")
@click.option(
    "--lock",
    type=_File,
    metavar="FILE",
    help=f"The lock file to write.  [default: $CLIPSEC_LOCK, or {LOCK_NAME} in this folder]",
)
@click.option("--key", type=_File, metavar="FILE", help="The vendor's public key, which must have signed it.")
@click.option(
    "--signature", type=_File, metavar="FILE", help="The signature, when it is not inside the wheel."
)
@click.option(
    "--publisher",
    metavar="WHO",
    help="Who must have published it, attested to the index: github:OWNER/REPOSITORY/WORKFLOW.yml, "
    "gitlab:..., google:..., circleci:...; needs --wheel and --provenance.",
)
@click.option("--wheel", type=_File, metavar="FILE", help="The wheel it was installed from.")
@click.option("--provenance", type=_File, metavar="FILE", help="The wheel's attestations (PEP 740), as JSON.")
def trust_command(
    names: tuple[str, ...],
    lock: Path | None,
    key: Path | None,
    signature: Path | None,
    publisher: str | None,
    wheel: Path | None,
    provenance: Path | None,
) -> int:
    """Write the lock file: which distributions may be imported, in which version, with which files.

    With names, those are added to the file or brought up to date and the others stay; without, the file is
    written anew from everything installed, except plugins whose name belongs to others. Nothing is imported.
    From then on `clipsec list` and `clipsec run` import nothing else.

    With --key or --publisher it is first verified who made the plugin, and the lock holds it to them: a new
    version by the same one is trusted by the same command without options, another's is refused.
    """
    voucher = _voucher(names, key, signature, publisher, wheel, provenance)
    path = lock or find_lock() or Path(LOCK_NAME)
    registry = Registry()
    before = _before(path, all_new=not names)
    if names:
        chosen = [record for name in names for record in _named(registry, name)]
    else:
        chosen = [record for record in registry.records() if record.status in (Status.OK, Status.FAILED)]
    trusted = trust(chosen, before, voucher)
    after = write_lock(path, before.updated(trusted) if names else trusted)
    for name, entry in after.distributions.items():
        old = before.distributions.get(name)
        verb = "kept" if entry == old else "trusted" if old is None else "updated"
        editable = ", editable: every edit of it asks for trust again" if entry.editable else ""
        signer = f", by {entry.signer}" if entry.signer else ""
        click.echo(f"{verb} {name} {entry.version} ({len(entry.files)} files{signer}{editable})")
    for record in registry.records():
        if record.distribution not in after.distributions:
            click.echo(f"left out {record.canonical_name}: {record.reason or 'not named'}")
    for note in dict.fromkeys(
        f"{record.distribution}: {record.reason}" for record in chosen if record.reason
    ):
        click.echo(f"Note on {note}.", err=True)
    click.echo(f"Wrote {click.format_filename(path)}.")
    return 0


def _voucher(
    names: tuple[str, ...],
    key: Path | None,
    signature: Path | None,
    publisher: str | None,
    wheel: Path | None,
    provenance: Path | None,
) -> BySignature | ByPublisher | None:
    if (key or publisher) and len(names) != 1:
        raise UsageError(
            "--key and --publisher are about one plugin",
            remedy="Name one distribution: clipsec plugin trust NAME --key vendor.pub.",
        )
    if key and publisher:
        raise UsageError("--key and --publisher exclude each other", remedy="Give the one the vendor uses.")
    if signature and not key:
        raise UsageError("--signature needs --key", remedy="Name the vendor's public key with --key.")
    if key:
        return BySignature(read_public_key(key), signature)
    if publisher and wheel and provenance:
        return ByPublisher(publisher, wheel, provenance)
    if publisher or wheel or provenance:
        raise UsageError(
            "--publisher, --wheel and --provenance belong together",
            remedy="Give all three; docs/trust.md says where to get them.",
        )
    return None


def _before(path: Path, *, all_new: bool) -> Lock:
    """The lock as it is. One that cannot be read is lost when all is written anew, which the user is told."""
    if not path.exists():
        return Lock()
    try:
        return read_lock(path)
    except LockError as error:
        if not all_new:
            raise
        click.echo(f"{error}; it is replaced, and no plugin is held to the signer it named.", err=True)
        return Lock()


def _named(registry: Registry, name: str) -> list[PluginRecord]:
    """All plugins of the distribution called `name`, else the one plugin called so."""
    wanted = name.lower().replace("_", "-").replace(".", "-")
    of_distribution = [record for record in registry.records() if record.distribution == wanted]
    return of_distribution or [registry.find(None, name)]
