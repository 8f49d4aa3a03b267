"""Adding distributions to a lock, and holding them to whoever vouched for them before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from clipsec_registry._errors import SignatureError
from clipsec_registry._files import SIGNATURE_NAME
from clipsec_registry._lock import Lock, LockedDistribution
from clipsec_registry._text import printable

if TYPE_CHECKING:
    from clipsec_registry._records import PluginRecord
    from clipsec_registry._signatures import Statement


@attrs.frozen
class BySignature:
    """Vouched for by a vendor's key."""

    key: str
    """As `read_public_key` gives it."""
    signature: Path | None = None
    """The file beside the wheel; None: the one inside."""


@attrs.frozen
class ByPublisher:
    """Vouched for by an index's attestation (PEP 740)."""

    publisher: str
    wheel: Path
    provenance: Path


Voucher = BySignature | ByPublisher


def trust(records: Iterable[PluginRecord], before: Lock, voucher: Voucher | None = None) -> Lock:
    """A lock of the distributions that offer these plugins, as they are now. Imports nothing.

    With a voucher, each is verified, and the lock says by whom. A distribution that `before` holds to a
    signer keeps that signer: another version, or other files, must come from the same one.

    Raises `SignatureError` if one cannot be verified, `LockError` if its files cannot be read.
    """
    records = list(records)
    envelopes = {record.distribution: record for record in records}
    measured = Lock.of(records).distributions
    return Lock(
        {
            name: _vouched(entry, before.distributions.get(name), voucher, envelopes[name])
            for name, entry in measured.items()
        }
    )


def _vouched(
    entry: LockedDistribution, old: LockedDistribution | None, voucher: Voucher | None, record: PluginRecord
) -> LockedDistribution:
    held = old.signer if old is not None else ""
    if voucher is not None:
        signer = voucher.key if isinstance(voucher, BySignature) else voucher.publisher
        if held and held != signer:
            raise SignatureError(
                f"the lock holds {entry.name} to {held}, and {printable(signer)} is another",
                remedy=f"If the vendor has announced the change, delete the entry of {entry.name} from the "
                "lock file and run the same command again.",
                plugin=entry.name,
            )
    elif not held or (old is not None and attrs.evolve(entry, signer=held) == old):
        return attrs.evolve(entry, signer=held)
    elif held.startswith("ed25519:"):
        voucher = BySignature(held)
    else:
        raise SignatureError(
            f"the lock holds {entry.name} to the publisher {held}, and {entry.name} {entry.version} is not "
            "what was verified",
            remedy=f"Run `clipsec plugin trust {entry.name} --publisher {held} --wheel FILE "
            "--provenance FILE`.",
            plugin=entry.name,
        )
    if isinstance(voucher, BySignature):
        _check_signature(entry, voucher, record)
        return attrs.evolve(entry, signer=voucher.key)
    _check_publisher(entry, voucher)
    return attrs.evolve(entry, signer=voucher.publisher)


def _check_signature(entry: LockedDistribution, voucher: BySignature, record: PluginRecord) -> None:
    from clipsec_registry._signatures import signed_statement

    _refuse_editable(entry)
    path = voucher.signature or record._offer.by.folder / SIGNATURE_NAME
    who = f"{entry.name} {entry.version}"
    try:
        envelope = path.read_bytes()
    except OSError as error:
        raise SignatureError(
            f"{who} is not signed: {printable(path)} cannot be read",
            remedy="Ask the vendor for a signed wheel (`clipsec plugin sign`), or name the signature's file "
            "with --signature.",
            plugin=entry.name,
        ) from error
    _compare(signed_statement(envelope, voucher.key, who), entry, "the signature")


def _check_publisher(entry: LockedDistribution, voucher: ByPublisher) -> None:
    from clipsec_registry._attestations import verify_wheel
    from clipsec_registry._signatures import statement_of

    _refuse_editable(entry)
    verify_wheel(voucher.wheel, voucher.provenance, voucher.publisher)
    _compare(statement_of(voucher.wheel), entry, printable(voucher.wheel.name))


def _refuse_editable(entry: LockedDistribution) -> None:
    if entry.editable:
        raise SignatureError(
            f"{entry.name} is an editable installation, which nobody can have signed",
            remedy="Install its wheel, or trust it without a key.",
            plugin=entry.name,
        )


def _compare(statement: Statement, entry: LockedDistribution, what: str) -> None:
    if problem := statement.differs(entry.name, entry.version, dict(entry.files)):
        raise SignatureError(
            f"{entry.name} {entry.version} as installed is not what {what} covers: {problem}",
            remedy="Find out who changed it, then run `pip install --force-reinstall` with the vendor's "
            f"wheel of {entry.name}.",
            plugin=entry.name,
        )
