"""The lock file: which distributions may be imported, in which version, with which files.

`clipsec.lock` is TOML, meant to be committed and reviewed:

    version = 1

    [[distribution]]
    name = "clipsec-clip-inspector"
    version = "0.1.0"
    digest = "sha256:..."             # over the table of files below
    editable = false
    signer = "ed25519:..."            # only if it was verified: the vendor's key, or the publisher
    entry-points = ["clipsec.detectors: clip-inspector = clipsec_clip_inspector:ClipInspector"]

    [distribution.files]
    "clipsec_clip_inspector/__init__.py" = "..."
"""

from __future__ import annotations

import enum
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from clipsec_registry._errors import LockError
from clipsec_registry._files import difference, digests, locate, owns, total
from clipsec_registry._names import is_name, module_of, normalise
from clipsec_registry._text import printable

if TYPE_CHECKING:
    from clipsec_registry._discovery import Installation, Offer
    from clipsec_registry._records import PluginRecord

LOCK_NAME = "clipsec.lock"
_FORMAT = 1
_AGAIN = "Write it again with `clipsec plugin trust`, or restore it from version control."


@attrs.frozen(kw_only=True)
class LockedDistribution:
    """A distribution that was looked at and trusted, as it was then."""

    name: str
    version: str
    files: Mapping[str, str]
    """SHA-256 by file name, relative to the site folder."""
    entry_points: tuple[str, ...] = ()
    editable: bool = False
    signer: str = ""
    """Who vouched for these files when they were trusted: `ed25519:KEY`, or a publisher (PEP 740)."""

    @property
    def digest(self) -> str:
        """Over all files; equal exactly when every name and every byte is."""
        return total(self.files)


@attrs.frozen
class Lock:
    """What may be imported."""

    distributions: Mapping[str, LockedDistribution] = attrs.field(factory=dict)
    """By normalised name."""
    path: Path | None = attrs.field(default=None, eq=False)
    """The file it was read from."""

    @classmethod
    def of(cls, records: Iterable[PluginRecord]) -> Lock:
        """What the distributions that offer these plugins are now, whole. Imports nothing.

        Raises `LockError` if the files of one cannot be read.
        """
        by_name = {record.distribution: record._offer.by for record in records}
        return cls({name: _measure(by_name[name]) for name in sorted(by_name)})

    def updated(self, other: Lock) -> Lock:
        """This lock with the distributions of `other` added or replaced."""
        merged = {**self.distributions, **other.distributions}
        return Lock({name: merged[name] for name in sorted(merged)}, self.path)


class Refusal(enum.StrEnum):
    """Why a lock forbids importing a plugin."""

    UNLISTED = "unlisted"
    VERSION = "version"
    FILES = "files"
    ELSEWHERE = "elsewhere"


@attrs.frozen
class TrustProblem:
    """A refusal, and what to do about it."""

    refusal: Refusal
    reason: str
    remedy: str


def find_lock(folder: Path | None = None) -> Path | None:
    """The lock in force: `$CLIPSEC_LOCK` if set, else `clipsec.lock` in the (current) folder, else None.

    Raises `LockError` if the variable names a file that does not exist: a lock never vanishes silently.
    """
    named = os.environ.get("CLIPSEC_LOCK")
    if named:
        if not Path(named).is_file():
            raise LockError(
                f"CLIPSEC_LOCK names {named}, which is not a file",
                remedy="Correct or unset the variable, or write the file with `clipsec plugin trust`.",
            )
        return Path(named)
    path = (folder or Path.cwd()) / LOCK_NAME
    return path if path.exists() else None


def read_lock(path: str | os.PathLike[str]) -> Lock:
    """Raises `LockError` for a file that is missing, malformed, inconsistent or of a newer format."""
    import tomllib

    path = Path(path)
    try:
        data = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise LockError(
            f"the lock file {path} cannot be read: {error.strerror or error}",
            remedy="Correct its path, or write it with `clipsec plugin trust`.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise LockError(f"the lock file {path} is not TOML: {printable(error)}", remedy=_AGAIN) from error
    version = data.get("version")
    if isinstance(version, int) and version > _FORMAT:
        raise LockError(
            f"the lock file {path} has format {version}; this clipsec reads format {_FORMAT}",
            remedy="Upgrade clipsec, or write the file again with `clipsec plugin trust`.",
        )
    try:
        _expect(type(version) is int and version == _FORMAT, "it does not say `version = 1`")
        _expect(set(data) <= {"version", "distribution"}, "it holds something else than distributions")
        tables = data.get("distribution", [])
        _expect(isinstance(tables, list), "`distribution` is not an array of tables")
        locked = [_locked(table) for table in tables]
        names = [entry.name for entry in locked]
        _expect(len(set(names)) == len(names), "it lists a distribution twice")
    except _Malformed as error:
        raise LockError(f"the lock file {path} is malformed: {error}", remedy=_AGAIN) from error
    return Lock({entry.name: entry for entry in sorted(locked, key=lambda entry: entry.name)}, path)


def write_lock(path: str | os.PathLike[str], lock: Lock | Iterable[PluginRecord]) -> Lock:
    """Write a lock, or a lock of what these plugins are now; returns it.

    The same content always gives the same bytes, and a failure leaves an existing file as it was. Raises
    `LockError` if the file cannot be written.
    """
    path = Path(path)
    lock = lock if isinstance(lock, Lock) else Lock.of(lock)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(_toml(lock))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise LockError(
            f"the lock file {path} cannot be written: {error.strerror or error}",
            remedy="Choose another path with --lock, or make its folder writable.",
        ) from error
    return attrs.evolve(lock, path=path)


def check(record: PluginRecord, lock: Lock) -> TrustProblem | None:
    """Whether the lock lets this plugin be imported, as its files are now; None when it does."""
    return check_installation(record._offer.by, lock) or check_origin(record._offer)


def check_installation(by: Installation, lock: Lock) -> TrustProblem | None:
    """Compare a distribution with the lock: listed, same version, same files."""
    where = lock.path or LOCK_NAME
    if by.local is not None:
        return TrustProblem(
            Refusal.UNLISTED,
            f"{printable(by.local.path)} is an unpackaged file, and {where} lists distributions only",
            "Make a package of it (`clipsec plugin new`), install it and run `clipsec plugin trust`; or run "
            "without the lock.",
        )
    trust = f"Look at {by.name} {by.version}, then run `clipsec plugin trust {by.name}`"
    locked = lock.distributions.get(by.name)
    if locked is not None and locked.signer:
        trust = f"Run `clipsec plugin trust {by.name}`, which verifies that it is by {locked.signer} too"
    if locked is None:
        return TrustProblem(
            Refusal.UNLISTED, f"{by.name} is not listed in {where}", f"{trust}, or uninstall it."
        )
    if locked.version != by.version:
        return TrustProblem(
            Refusal.VERSION,
            f"{where} lists {by.name} {printable(locked.version, 40)}, but {by.version} is installed",
            f"{trust}, or run `pip install {by.name}=={printable(locked.version, 40)}`.",
        )
    files = digests(by)
    problem = _difference(locked, files, by)
    if not problem:
        return None
    return TrustProblem(
        Refusal.FILES,
        f"the files of {by.name} {by.version} are not those in {where}: {problem}",
        f"Find out who changed them; then reinstall it, or run `clipsec plugin trust {by.name}`.",
    )


def check_origin(offer: Offer) -> TrustProblem | None:
    """Whether an import would execute the distribution's own files, not others before them on the path."""
    module = module_of(offer.entry_point.value)
    location = locate(module) if module and offer.by.local is None else None
    if location is None or owns(offer.by, location):
        return None
    where = printable(location.origin) if location.origin else "somewhere that has no file"
    return TrustProblem(
        Refusal.ELSEWHERE,
        f"importing {module} would execute {where}, which is not a file of {offer.by.name}",
        "Remove or rename that file, start clipsec in another folder, or clear PYTHONPATH.",
    )


def _measure(by: Installation) -> LockedDistribution:
    if by.local is not None:
        raise LockError(
            f"{printable(by.local.path)} is an unpackaged file, and a lock lists distributions only",
            remedy="Make a package of it with `clipsec plugin new` and install it.",
        )
    files = digests(by)
    if not files:
        raise LockError(
            f"the files of {by.name} in {printable(by.folder.parent)} cannot be read",
            remedy="Install it as files in a folder, not in a zip archive, and readable by you.",
            plugin=by.name,
        )
    return LockedDistribution(
        name=by.name,
        version=by.version,
        files=files,
        entry_points=_points(by),
        editable=by.project is not None,
    )


def _difference(locked: LockedDistribution, files: Mapping[str, str], by: Installation) -> str:
    if locked.editable != (by.project is not None):
        return "it was trusted as an " + ("editable" if locked.editable else "ordinary") + " installation"
    points = _points(by)
    parts = [
        f"entry point {verb} {printable(point)}"
        for verb, points in (
            ("gone", set(locked.entry_points) - set(points)),
            ("new", set(points) - set(locked.entry_points)),
        )
        for point in sorted(points)
    ]
    return "; ".join([*parts, *filter(None, [difference(locked.files, files)])])


def _points(by: Installation) -> tuple[str, ...]:
    return tuple(sorted(f"{point.group}: {point.name} = {point.value}" for point in by.entry_points))


class _Malformed(Exception):
    pass


def _expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise _Malformed(complaint)


def _locked(table: Any) -> LockedDistribution:
    _expect(isinstance(table, dict), "`distribution` is not an array of tables")
    name = table.get("name")
    _expect(isinstance(name, str) and is_name(name), "a distribution has no valid name")
    kinds = {
        "name": str,
        "version": str,
        "digest": str,
        "editable": bool,
        "entry-points": list,
        "files": dict,
    }
    for key, kind in kinds.items():
        _expect(isinstance(table.get(key), kind), f"`{key}` of {name} is missing or of the wrong type")
    _expect(set(table) - {"signer"} == set(kinds), f"{name} has a key that means nothing here")
    signer = table.get("signer", "")
    _expect(isinstance(signer, str), f"`signer` of {name} is of the wrong type")
    _expect(
        not signer.startswith("ed25519:") or re.fullmatch("ed25519:[A-Za-z0-9+/]{43}=", signer) is not None,
        f"`signer` of {name} is not a key",
    )
    points, files = table["entry-points"], table["files"]
    _expect(all(isinstance(point, str) for point in points), f"`entry-points` of {name} are not all strings")
    _expect(
        all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in files.values()),
        f"`files` of {name} are not all SHA-256 digests",
    )
    locked = LockedDistribution(
        name=normalise(name),
        version=table["version"],
        files=dict(sorted(files.items())),
        entry_points=tuple(points),
        editable=table["editable"],
        signer=signer,
    )
    _expect(locked.digest == table["digest"], f"`digest` of {name} is not that of its files")
    return locked


def _toml(lock: Lock) -> str:
    lines = [
        "# Which plugins clipsec may import: importing one runs its code. Written by `clipsec plugin trust`.",
        f"version = {_FORMAT}",
    ]
    for _, entry in sorted(lock.distributions.items()):
        lines += [
            "",
            "[[distribution]]",
            f"name = {_quoted(entry.name)}",
            f"version = {_quoted(entry.version)}",
            f"digest = {_quoted(entry.digest)}",
            f"editable = {str(entry.editable).lower()}",
            *([f"signer = {_quoted(entry.signer)}"] if entry.signer else []),
            "entry-points = [",
            *(f"    {_quoted(point)}," for point in entry.entry_points),
            "]",
            "",
            "[distribution.files]",
            *(f"{_quoted(name)} = {_quoted(entry.files[name])}" for name in sorted(entry.files)),
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
