"""Opening files that somebody else made: regular files only, bounded, hashed once, errors with a remedy."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import attrs

from clipsec.errors import MalformedModelError, ModelError, UnsafeModelError
from clipsec_registry import printable

JSON_LIMIT = 16 * 2**20
"""The largest configuration that is read. Tokenizers of 256,000 words are below 35 MB and have their own
limit."""


@attrs.frozen
class Opened:
    """A regular file that was opened, and what it was then."""

    file: BufferedReader = attrs.field(repr=False)
    path: Path
    size: int
    identity: tuple[int, ...]
    """Device, inode, size and time of change: equal means that it is still the same file."""

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def check_unchanged(self) -> None:
        """Raise `MalformedModelError` when another file lies there by now, or this one was written to."""
        try:
            now = _identity(os.stat(self.path))
        except OSError:
            now = ()
        if now != self.identity:
            raise MalformedModelError(
                f"{shown_path(self.path)} changed while it was read",
                remedy="Wait until the copy is complete, then run the same command again.",
            )

    def sha256(self) -> str:
        """Hex digest of the whole file; the position is left at the start."""
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, "sha256").hexdigest()
        self.file.seek(0)
        return digest


def open_regular(path: Path, *, max_bytes: int | None = None) -> Opened:
    """Open a regular file, following links. Never waits: a named pipe or a device is refused.

    Raises `ModelError` when it is missing or may not be read, `MalformedModelError` when it is no file or
    empty, `UnsafeModelError` when it is larger than `max_bytes`.
    """
    # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(path, flags), "rb")
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise MalformedModelError(
                f"{shown_path(path)} is {_kind(status.st_mode)}, not a file",
                remedy="Name the model's file or folder itself.",
            )
        if status.st_size == 0:
            raise MalformedModelError(
                f"{shown_path(path)} is empty",
                remedy="The copy or the download failed: fetch the file again.",
            )
        if max_bytes is not None and status.st_size > max_bytes:
            raise UnsafeModelError(
                f"{shown_path(path)} has {status.st_size:,} bytes; at most {max_bytes:,} are read",
                remedy="If a model of this size is expected, raise LoadRequest.max_bytes.",
            )
    except BaseException:
        file.close()
        raise
    return Opened(file, path, status.st_size, _identity(status))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _kind(mode: int) -> str:
    return "a named pipe" if stat.S_ISFIFO(mode) else "a device or a socket"


def _cannot_open(path: Path, error: OSError | ValueError) -> ModelError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return ModelError(f"there is no {shown_path(path)}", remedy="Check the path.")
    if number in (errno.EACCES, errno.EPERM):
        return ModelError(
            f"{shown_path(path)} may not be read", remedy="Give yourself permission to read it, or copy it."
        )
    if number == errno.EISDIR:
        return MalformedModelError(
            f"{shown_path(path)} is a folder, not a file", remedy="Ask the vendor for the complete delivery."
        )
    if number == errno.ELOOP:
        return MalformedModelError(
            f"{shown_path(path)} is a link that leads back to itself",
            remedy="Deliver the file itself instead of the link.",
        )
    if number == errno.ENXIO:
        return MalformedModelError(
            f"{shown_path(path)} is a device or a socket, not a file", remedy="Name the model's file."
        )
    reason = getattr(error, "strerror", None) or str(error)
    return ModelError(
        f"{shown_path(path)} cannot be opened: {printable(reason, 120)}",
        remedy="Check the path and the disk.",
    )


def read_json(path: Path, *, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """A JSON object. Raises like `open_regular`, and `MalformedModelError` for anything but one plain
    object."""
    with open_regular(path, max_bytes=limit) as opened:
        data = opened.file.read(limit)
    return parse_json(data, shown_path(path))


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Strict JSON: UTF-8, one object, no repeated names, no NaN. Raises `MalformedModelError`."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise MalformedModelError(
            f"{what} is not valid JSON: {printable(error, 120)}",
            remedy="The file is damaged or not what its name says: ask the vendor for it again.",
        ) from error
    if not isinstance(value, dict):
        raise MalformedModelError(
            f"{what} holds a {type(value).__name__} where an object is expected",
            remedy="The file is not what its name says: ask the vendor for it again.",
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may disagree on which of two equal names counts; nobody writes that by accident.
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def inside(folder: Path, name: object) -> Path:
    """`folder / name` for a name that a delivery gives. Raises `UnsafeModelError` when it is not a plain
    name."""
    plain = isinstance(name, str) and name not in ("", ".", "..") and "\0" not in name
    if not plain or any(separator in str(name) for separator in ("/", "\\", ":")):
        raise UnsafeModelError(
            f"{shown_path(folder)} refers to the file {printable(name, 80)!r}, outside its own folder",
            remedy="Deliver every part of the model in one folder and refer to it by plain names.",
        )
    return folder / str(name)


def shown_path(path: Path | str) -> str:
    """A path as it may be shown on a terminal."""
    return printable(path, 200)


def shown_names(names: Mapping[str, Any] | list[str] | tuple[str, ...] | set[str], most: int = 3) -> str:
    """The first few of many names that a file chose, safe to show."""
    ordered = sorted(names)
    head = ", ".join(printable(name, 80) for name in ordered[:most])
    return head if len(ordered) <= most else f"{head}, ... ({len(ordered)} in all)"
