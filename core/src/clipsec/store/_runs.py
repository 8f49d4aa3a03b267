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
from clipsec.results import RunResult, from_json, to_text
from clipsec.results._plain import parse_json
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
    answers/DETECTOR/KEY/           the verdict itself, where the detector was isolated
    """

    folder: Path

    @property
    def result_file(self) -> Path:
        """Where the result is (or will be). It exists once the run has ended, whatever the outcome."""
        return self.folder / RUN_FILE

    def verdict_folder(self, detector: str, key: str) -> Path:
        """The folder of a detector's verdict under a content key; created if need be."""
        return make_folder(self.detector_folder(detector) / _short(key, 16))

    def detector_folder(self, detector: str) -> Path:
        """The folder of all verdicts of a detector in this run; created if need be."""
        return make_folder(self.folder / "verdicts" / safe_name(detector))

    def answers(self, detector: str, key: str) -> UnitStore:
        """Verdicts of a detector that may write only to its own folder, so kept where it cannot."""
        return UnitStore(self.folder / "answers" / safe_name(detector) / _short(key, 16))

    def units(self, detector: str, key: str) -> UnitStore:
        """The finished parts of a verdict under a content key."""
        return UnitStore(self.verdict_folder(detector, key) / "units")

    def write_result(self, result: RunResult) -> None:
        """Write `run.json`, whole or not at all. Raises `ContractError` or `StoreError`."""
        atomic_write(self.result_file, to_text(result).encode("ascii"))

    def read_result(self) -> RunResult:
        """The run that ended here; its `folder` is where it lies now. Raises `StoreError`."""
        return attrs.evolve(_read(self.result_file), folder=str(self.folder))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder while writing to it; a killed holder releases it.

        Temporary files that a killed run left are removed. Raises `StoreError` at once when somebody else,
        in this or another process, holds it.
        """
        make_folder(self.folder)
        owner = self.folder / ".owner"
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(
                f"another run is writing to {self.folder} ({_read_owner(owner)})",
                remedy="Wait for it to end, or give this run a folder of its own.",
            ) from None
        except OSError as error:
            raise store_error(error, self.folder, "lock") from error
        try:
            atomic_write(owner, f"process {os.getpid()} on {platform.node()}".encode())
            for leftover in leftovers(self.folder):
                leftover.unlink(missing_ok=True)
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()


def read_run(path: str | Path) -> RunResult:
    """The run in a run's folder, or in a file such as a copy of its `run.json`. Raises `StoreError`."""
    path = Path(path)
    if path.is_dir() and not (path / RUN_FILE).exists() and (inside := RunStore(path).runs()):
        raise StoreError(
            f"{path} is a folder of runs, not a run",
            remedy=f"Name one of them, e.g. {inside[-1].folder}.",
        )
    if path.is_dir() and not (path / RUN_FILE).exists() and (path / "verdicts").is_dir():
        raise StoreError(
            f"the run in {path} has not ended",
            remedy="Run the same `clipsec run` command again: it goes on from what is stored.",
        )
    if path.is_dir() or path.name == RUN_FILE:
        return RunFolder(path if path.is_dir() else path.parent).read_result()
    return _read(path)


class RunStore:
    """The folder that all runs lie in, one folder each: `ROOT/SUSPECT-KEY`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"RunStore({str(self.root)!r})"

    def run(self, suspect_name: str, key: str) -> RunFolder:
        """The run's folder (not created yet). `key` is the content key of everything that decides the run."""
        return RunFolder(self.root / f"{slug(suspect_name) or 'suspect'}-{_short(key, 12)}")

    @contextlib.contextmanager
    def open(self, suspect_name: str, key: str) -> Iterator[RunFolder]:
        """The run's folder, created and held for writing. Raises `StoreError` when somebody else holds it."""
        run = self.run(suspect_name, key)
        with run.locked():
            yield run

    def runs(self) -> list[RunFolder]:
        """All runs that ended, by name."""
        return [RunFolder(path.parent) for path in sorted(self.root.glob(f"*/{RUN_FILE}"))]


def _read(file: Path) -> RunResult:
    try:
        document = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{file} cannot be read: {error}",
            remedy="Name the folder of a run that has ended.",
        ) from error
    return from_json(document)


def _short(key: str, length: int) -> str:
    if not re.fullmatch(r"[0-9a-f]{16,}", key):
        raise ContractError(f"{key!r} is not a content key", remedy="Make it with clipsec.store.content_key.")
    return key[:length]


def _read_owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return "its process is not known"
