"""What has been done: one stored unit for each model and each verdict, finished or failed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from clipsec.store import UnitStore

DONE, FAILED = "done", "failed"


@attrs.frozen
class Entry:
    """What is known about one unit."""

    state: str
    """`done` or `failed`."""
    data: dict[str, Any]
    """Of a finished unit, what it found."""
    code: str = ""
    """Digest of the files of the plugin that did it."""
    seconds: float = 0.0
    reason: str = ""
    """Why it failed, one sentence, and what to do."""

    @property
    def done(self) -> bool:
        return self.state == DONE


class Ledger:
    """The units of one output folder, by content key.

    A unit is a file that appears whole or not at all, so a kill loses what was being done and nothing else;
    doing a unit again replaces it, so nothing counts twice.
    """

    def __init__(self, folder: Path, *, any_code: bool = False) -> None:
        self._units = UnitStore(folder)
        self._any_code = any_code
        self._read: dict[str, Entry] = {}

    def look(self, key: str, code: str) -> Entry | None:
        """The unit; None if there is none, or only one that other code of the same plugin made."""
        entry = self._read.get(key)
        if entry is None:
            unit = self._units.load(key)
            if unit is None:
                return None
            names = {field.name for field in attrs.fields(Entry)}
            entry = Entry(**{name: value for name, value in unit.data.items() if name in names})
            if entry.done:
                self._read[key] = entry
        return entry if self._any_code or entry.code == code else None

    def finish(self, key: str, code: str, seconds: float, data: Mapping[str, Any]) -> Entry:
        """Store a finished unit. Raises `StoreError`."""
        return self._save(key, Entry(DONE, dict(data), code, round(seconds, 3)))

    def fail(self, key: str, code: str, seconds: float, reason: str) -> Entry:
        """Store why a unit failed; the next run tries again. Raises `StoreError`."""
        return self._save(key, Entry(FAILED, {}, code, round(seconds, 3), reason))

    def _save(self, key: str, entry: Entry) -> Entry:
        self._units.save(key, attrs.asdict(entry))
        self._read[key] = entry
        return entry
