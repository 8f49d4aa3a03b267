"""A vendor's Ed25519 signature over a distribution: made from a wheel, checked against what is installed.

The statement that is signed names the distribution, its version, and the SHA-256 of each file as it will lie
in the site folder. What installers write or rewrite (RECORD, INSTALLER, direct_url.json, bytecode caches,
console scripts) is not in it, so the vendor can compute it from the wheel and the user from the installation.
It travels in a DSSE envelope (Dead Simple Signing Envelope, secure-systems-lab/dsse, protocol v1), as
`clipsec-signature.json` in the wheel's metadata folder or as a file beside the wheel.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import attrs

from clipsec_registry._errors import SignatureError
from clipsec_registry._files import SIGNATURE_NAME, counts, difference
from clipsec_registry._names import normalise
from clipsec_registry._text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PAYLOAD_TYPE = "application/vnd.clipsec.distribution.v1+json"
_SCHEME = "ed25519:"
_LIMIT = 64 * 1024 * 1024
"""Bytes; a signature file of a hundred thousand files is about 15 MB."""


@attrs.frozen
class Statement:
    """What is signed."""

    distribution: str
    """Normalised."""
    version: str
    files: dict[str, str]
    """SHA-256 by name, relative to the site folder."""

    def differs(self, distribution: str, version: str, files: dict[str, str]) -> str:
        """How what is installed is not what was signed; empty when it is."""
        if (self.distribution, self.version) != (distribution, version):
            return f"it is of {printable(self.distribution, 80)} {printable(self.version, 40)}"
        return difference(self.files, files)


def statement_of(wheel: Path) -> Statement:
    """What installing this wheel will put into the site folder.

    Raises `SignatureError` for a file that is not a wheel, or is ambiguous.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            info = _info_folder(wheel, members)
            headers = HeaderParser().parsestr(archive.read(f"{info}/METADATA").decode())
            files: dict[str, str] = {}
            for member in members:
                name = _installed_name(member.filename, info)
                if name is not None and name in files:
                    raise _not_a_wheel(wheel, f"{printable(name)} is in it twice")
                if name is not None:
                    with archive.open(member) as stream:
                        files[name] = hashlib.file_digest(
                            cast(io.BufferedIOBase, stream), "sha256"
                        ).hexdigest()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _not_a_wheel(wheel, printable(error)) from error
    return Statement(normalise(str(headers["Name"])), str(headers["Version"]), dict(sorted(files.items())))


def write_key_pair(private: Path, public: Path, passphrase: str = "") -> str:
    """Make an Ed25519 key pair, as PEM files; returns the public key as a lock writes it.

    The private file is readable by its owner only, and encrypted if there is a passphrase. Raises
    `SignatureError` if a file exists already or cannot be written, or without the library cryptography.
    """
    serialization, ed25519, _ = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    pem = serialization.Encoding.PEM
    contents = {
        private: key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption),
        public: key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    }
    if existing := [path for path in contents if path.exists()]:
        raise SignatureError(
            f"{printable(existing[0])} exists already", remedy="Choose another name; no key is overwritten."
        )
    try:
        for path, content in contents.items():
            mode = 0o600 if path == private else 0o644
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(content)
    except OSError as error:
        raise SignatureError(
            f"a key cannot be written: {printable(error)}", remedy="Choose another folder."
        ) from error
    return _identity(key.public_key())


def read_public_key(path: Path) -> str:
    """The key in a PEM file, as a lock writes it: `ed25519:` and 32 bytes in base64.

    Raises `SignatureError`.
    """
    serialization, ed25519, _ = _cryptography()
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SignatureError(
            f"{printable(path)} is not a public key in PEM form: {printable(error)}",
            remedy="Give the .pub file that the vendor publishes, not the private key.",
        ) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SignatureError(f"{printable(path)} is not an Ed25519 key", remedy="Ask the vendor for one.")
    return _identity(key)


def sign_wheel(wheel: Path, private: Path, passphrase: str = "", *, detached: bool = False) -> Path:
    """Sign a wheel; returns the file that holds the signature.

    The wheel is replaced by one that carries the signature in its metadata folder, or, `detached`, is left
    alone and the signature written beside it. Raises `SignatureError`.
    """
    key = _read_private_key(private, passphrase)
    statement = statement_of(wheel)
    payload = json.dumps(attrs.asdict(statement), sort_keys=True, separators=(",", ":")).encode()
    signature = {"keyid": _identity(key.public_key()), "sig": _b64(key.sign(_signed_bytes(payload)))}
    envelope = {"payloadType": _PAYLOAD_TYPE, "payload": _b64(payload), "signatures": [signature]}
    content = (json.dumps(envelope, indent=1) + "\n").encode()
    target = wheel.with_name(f"{wheel.name}.{SIGNATURE_NAME}") if detached else wheel
    try:
        handle, temporary = tempfile.mkstemp(dir=wheel.parent, prefix=f".{wheel.name}-")
        try:
            with os.fdopen(handle, "wb") as stream:
                if detached:
                    stream.write(content)
                else:
                    _copy_with_signature(wheel, stream, content)
            os.chmod(temporary, wheel.stat().st_mode & 0o777)
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise SignatureError(
            f"{printable(target)} cannot be written: {printable(error)}", remedy="Make its folder writable."
        ) from error
    return target


def signed_statement(envelope: bytes, key: str, who: str) -> Statement:
    """The statement in an envelope, after checking that `key` signed it. `who` names it in errors.

    Raises `SignatureError` when it is malformed, or signed by other keys only.
    """
    _, ed25519, invalid = _cryptography()
    malformed = SignatureError(
        f"the signature of {who} is malformed", remedy="Ask the vendor for a wheel that is signed anew."
    )
    try:
        if len(envelope) > _LIMIT:
            raise malformed
        data = json.loads(envelope)
        payload = base64.b64decode(data["payload"], validate=True)
        signatures = [base64.b64decode(each["sig"], validate=True) for each in data["signatures"]]
        names = [printable(each.get("keyid", "an unnamed key"), 80) for each in data["signatures"]]
        kind = data["payloadType"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise malformed from error
    public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix(_SCHEME)))
    for signature in signatures:
        try:
            public.verify(signature, _signed_bytes(payload, kind))
            break
        except invalid:
            continue
    else:
        claims = ", ".join(names) or "nobody"
        what = "was altered after it was signed" if key in names else f"is by another key ({claims})"
        raise SignatureError(
            f"the signature of {who} {what}; expected {key}",
            remedy="Do not use it before the vendor has said, by another route than the wheel came, "
            "whether its key changed.",
        )
    try:
        if kind != _PAYLOAD_TYPE:
            raise malformed
        return Statement(**json.loads(payload))
    except (ValueError, TypeError) as error:
        raise malformed from error


def _signed_bytes(payload: bytes, kind: str = _PAYLOAD_TYPE) -> bytes:
    """DSSE's pre-authentication encoding."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def _info_folder(wheel: Path, members: list[zipfile.ZipInfo]) -> str:
    folders = {member.filename.split("/")[0] for member in members}
    infos = [folder for folder in folders if folder.endswith(".dist-info")]
    if len(infos) != 1:
        raise _not_a_wheel(wheel, f"it holds {len(infos)} metadata folders")
    return infos[0]


def _installed_name(member: str, info: str) -> str | None:
    """Where it will lie, relative to the site folder; None if it does not count (see `_files.counts`)."""
    path = PurePosixPath(member)
    if path.parts[0] == f"{info.removesuffix('.dist-info')}.data":
        if len(path.parts) < 3 or path.parts[1] not in ("purelib", "platlib"):
            return None
        path = PurePosixPath(*path.parts[2:])
    return str(path) if counts(path, info) else None


def _copy_with_signature(wheel: Path, stream: Any, signature: bytes) -> None:
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        info = _info_folder(wheel, old.infolist())
        record, own = f"{info}/RECORD", f"{info}/{SIGNATURE_NAME}"
        for member in old.infolist():
            if member.filename not in (record, own):
                with old.open(member) as source, new.open(member, "w") as copy:
                    shutil.copyfileobj(source, copy)
        rows = [row for row in csv.reader(old.read(record).decode().splitlines()) if row and row[0] != own]
        digest = base64.urlsafe_b64encode(hashlib.sha256(signature).digest()).rstrip(b"=").decode()
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [*rows[:-1], [own, f"sha256={digest}", str(len(signature))], *rows[-1:]]
        )
        stamp = old.getinfo(record).date_time
        for name, content in ((own, signature), (record, text.getvalue().encode())):
            entry = zipfile.ZipInfo(name, stamp)
            entry.external_attr = 0o100644 << 16
            new.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _read_private_key(path: Path, passphrase: str) -> Ed25519PrivateKey:
    serialization, ed25519, _ = _cryptography()
    try:
        content = path.read_bytes()
        password = passphrase.encode() if passphrase and b"ENCRYPTED" in content else None
        key = serialization.load_pem_private_key(content, password)
    except TypeError as error:
        raise SignatureError(
            f"{printable(path)} is encrypted",
            remedy="Set the variable CLIPSEC_KEY_PASSPHRASE to its passphrase.",
        ) from error
    except (OSError, ValueError) as error:
        raise SignatureError(
            f"{printable(path)} cannot be used as a private key: {printable(error)}",
            remedy="Give the .key file that `clipsec plugin keygen` wrote, and its passphrase if it has one.",
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SignatureError(
            f"{printable(path)} is not an Ed25519 key", remedy="Make one with `clipsec plugin keygen`."
        )
    return key


def _identity(key: Any) -> str:
    return _SCHEME + _b64(key.public_bytes_raw())


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _not_a_wheel(path: Path, why: str) -> SignatureError:
    return SignatureError(f"{printable(path)} is not a proper wheel: {why}", remedy="Build it again.")


def _cryptography() -> tuple[Any, Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise SignatureError(
            "signatures need the library cryptography, which is not installed",
            remedy="Run `pip install 'clipsec-registry[signing]'`.",
        ) from error
    return serialization, ed25519, InvalidSignature
