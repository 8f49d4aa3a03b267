"""Where long work is kept: one folder in the user's cache, every stage a file that appears whole or not at
all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["atomic_path", "cache_folder", "digest_file", "stage_key", "stage_tensors", "write_json"]


def cache_folder() -> Path:
    """The zoo's folder in the user's cache, made when missing."""
    folder = Path(platformdirs.user_cache_dir("clipsec")) / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stage_key(**parts: Any) -> str:
    """The first 24 hex digits of the sha256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; it takes the target's name when the block ends without an
    error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; what a build leaves behind is as readable as any other file of the
        # user.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def stage_tensors(
    path: Path, key: str, make: Callable[[], dict[str, Tensor]], check: Callable[[], None] | None = None
) -> dict[str, Tensor]:
    """Return the tensors kept at `path` under `key`, or make and keep them.

    A file with another key, or one that cannot be read, is made again: it is only a cache. `check` runs
    between making and keeping (a build's chance to stop).
    """
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            if metadata.get("key") == key:
                return load_file(path)
        except (SafetensorError, OSError):
            pass
    tensors = make()
    if check is not None:
        check()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"key": key})
    return tensors
