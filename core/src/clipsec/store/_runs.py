"""Run folders: where everything about one audit of one suspect lies."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from clipsec.errors import ContractError, StoreError
from clipsec.store._atomic import atomic_write, leftovers, make_folder, store_error
from clipsec.store._names import safe_name, slug
from clipsec.store._units import UnitStore

RUN_FILE = "run.json"


@attrs.frozen
class RunFolder:
    """One run. Several processes may read it; `locked()` lets one at a time write.

    run.json                        the result, written last
    verdicts/DETECTOR/KEY/          a verdict's own folder, for artifacts
    verdicts/DETECTOR/KEY/units/    its finished parts
    """

    path: Path

    @property
    def result_file(self) -> Path:
        """Where the result is (or will be). It exists once the run has ended, whatever the outcome."""
        return self.path / RUN_FILE

    def verdict_folder(self, detector: str, key: str) -> Path:
        """The folder of a detector's verdict under a content key; created if need be."""
        return make_folder(self.path / "verdicts" / safe_name(detector) / _short(key, 16))

    def units(self, detector: str, key: str) -> UnitStore:
        """The finished parts of a verdict under a content key."""
        return UnitStore(self.verdict_folder(detector, key) / "units")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder while writing to it; a killed holder releases it.

        Temporary files that a killed run left are removed. Raises `StoreError` at once when somebody else,
        in this or another process, holds it.
        """
        make_folder(self.path)
        owner = self.path / ".owner"
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(
                f"another run is writing to {self.path} ({_read_owner(owner)})",
                remedy="Wait for it to end, or give this run a folder of its own.",
            ) from None
        except OSError as error:
            raise store_error(error, self.path, "lock") from error
        try:
            atomic_write(owner, f"process {os.getpid()} on {platform.node()}".encode())
            for leftover in leftovers(self.path):
                leftover.unlink(missing_ok=True)
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()


class RunStore:
    """The folder that all runs lie in, one folder each: `ROOT/SUSPECT-KEY`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"RunStore({str(self.root)!r})"

    def folder(self, suspect_name: str, key: str) -> RunFolder:
        """The run's folder (not created yet). `key` is the content key of everything that decides the run."""
        return RunFolder(self.root / f"{slug(suspect_name) or 'suspect'}-{_short(key, 12)}")

    def runs(self) -> list[RunFolder]:
        """All runs that ended, by name."""
        return [RunFolder(path.parent) for path in sorted(self.root.glob(f"*/{RUN_FILE}"))]


def _short(key: str, length: int) -> str:
    if not re.fullmatch(r"[0-9a-f]{16,}", key):
        raise ContractError(f"{key!r} is not a content key", remedy="Make it with clipsec.store.content_key.")
    return key[:length]


def _read_owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return "its process is not known"
