"""Files that are either wholly there or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from clipsec.errors import StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def store_error(error: OSError, path: Path, doing: str = "write") -> StoreError:
    """What an operating system error means to somebody who wanted results."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        remedy = (
            "Free some space (or raise the quota) and run the same command again; finished parts are kept."
        )
    elif error.errno in _FORBIDDEN:
        remedy = "Choose a folder that you may write to."
    else:
        remedy = "Check that the folder is on a working disk, or choose another one."
    return StoreError(f"cannot {doing} {path}: {reason}", remedy=remedy)


def make_folder(path: Path) -> Path:
    """Create a folder and its parents. Raises `StoreError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(error, path, "create the folder") from error
    return path


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new, never a part.

    A temporary file in the same folder is written, flushed to the disk, and renamed over `path`; then the
    folder is flushed, so that the name survives a power cut too. Raises `StoreError` (disk full, no
    permission, ...), leaving whatever was at `path` as it was.
    """
    path = Path(path)
    make_folder(path.parent)
    # Not tempfile.mkstemp: it makes files that only their owner can read, and reports are meant to be shared.
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(6)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise store_error(error, path) from error
        raise


def _flush_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)


def leftovers(folder: Path) -> Iterator[Path]:
    """Temporary files under `folder` that a killed process left behind."""
    yield from folder.rglob(".*-*.tmp")
