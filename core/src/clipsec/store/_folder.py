"""Folders that are either wholly there or not there at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipsec.errors import StoreError


def require_new(folder: Path | str) -> None:
    """Raise `StoreError` when something is at `folder` already, other than an empty folder."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} exists already", remedy="Choose another folder, or remove it.")


@contextmanager
def whole_folder(folder: Path | str) -> Iterator[Path]:
    """A new folder beside `folder` to write into, renamed to `folder` at the end of the block.

    After an exception, Ctrl-C included, nothing is left. Raises `StoreError` when something is at `folder`
    already or it cannot be written.
    """
    require_new(folder)
    place = Path(folder).absolute()
    temporary = place.with_name(f".{place.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        # Replacing works onto nothing or an empty folder; onto anything else it fails, as it should.
        os.replace(temporary, place)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error}", remedy="Choose another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
