"""`clipsec plugin keygen` and `clipsec plugin sign`: what a vendor does so that users can verify a wheel."""

from __future__ import annotations

import os
from pathlib import Path

import click

from clipsec.errors import UsageError
from clipsec_registry import sign_wheel, write_key_pair

PASSPHRASE = "CLIPSEC_KEY_PASSPHRASE"


@click.command("keygen", short_help="Make a vendor's key pair.")
@click.argument("name", type=click.Path(path_type=Path))
def keygen_command(name: Path) -> int:
    """Make an Ed25519 key pair: NAME.key to sign with, NAME.pub to publish.

    Encrypted with the passphrase in the variable CLIPSEC_KEY_PASSPHRASE, if it is set.
    """
    private, public = (name.with_name(f"{name.name}{suffix}") for suffix in (".key", ".pub"))
    passphrase = os.environ.get(PASSPHRASE, "")
    key = write_key_pair(private, public, passphrase)
    how = "encrypted" if passphrase else f"not encrypted, as {PASSPHRASE} is not set"
    click.echo(f"Wrote {click.format_filename(private)} ({how}): keep it secret.")
    click.echo(f"Wrote {click.format_filename(public)}: publish it, by another route than the wheels.")
    click.echo(key)
    return 0


@click.command("sign", short_help="Sign wheels with a vendor's key.")
@click.argument("wheels", nargs=-1, metavar="WHEEL...", type=click.Path(path_type=Path))
@click.option(
    "--key", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The private key."
)
@click.option(
    "--detached", is_flag=True, help="Leave the wheel alone; write WHEEL.clipsec-signature.json beside it."
)
def sign_command(wheels: tuple[Path, ...], key: Path, detached: bool) -> int:
    """Sign each WHEEL: name, version and the digest of every file as it will be installed.

    The signature goes into the wheel, whose own digest changes by that: sign before you upload or attest it.
    The passphrase of an encrypted key is read from the variable CLIPSEC_KEY_PASSPHRASE.
    """
    if not wheels:
        raise UsageError("there is nothing to sign", remedy="Name a wheel: clipsec plugin sign WHEEL.")
    for wheel in wheels:
        written = sign_wheel(wheel, key, os.environ.get(PASSPHRASE, ""), detached=detached)
        click.echo(f"Signed {wheel.name}: {click.format_filename(written)}")
    return 0
