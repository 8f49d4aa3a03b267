"""Which detectors run in a process of their own, and starting it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from clipsec.errors import UsageError
from clipsec.isolation import Limits, Worker
from clipsec.isolation._context import own_shared_folder
from clipsec.runner._detectors import Chosen
from clipsec.store import RunFolder, UnitStore, safe_name
from clipsec_registry import PluginRecord

DECLARED = "process"
"""The value of a plugin's class attribute `isolation` that asks for a process of its own."""


def local_folder(scratch: Path, detector: str) -> Path:
    """Where a detector of an unpackaged file stores what ends with the run; created if need be."""
    folder = scratch / safe_name(detector)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Workers:
    """The worker processes of one audit."""

    def __init__(
        self,
        isolate: bool | Collection[str],
        limits: Limits,
        run: RunFolder,
        shared: UnitStore,
        scratch: Path,
    ) -> None:
        self._isolate = {isolate} if isinstance(isolate, str) else isolate
        self._limits, self._run, self._shared, self._scratch = limits, run, shared, scratch
        self._workers: list[Worker] = []

    def start(self, record: PluginRecord, plugin: Any) -> Worker | None:
        """The process for a detector that is to have one. `plugin` is its class, if it was imported here."""
        if not (self._named(record) or getattr(plugin, "isolation", None) == DECLARED):
            return None
        name = record.canonical_name
        if record.local:
            own = local_folder(self._scratch, name)
        else:
            own = own_shared_folder(self._shared, name)
            own.mkdir(parents=True, exist_ok=True)
        worker = Worker(name, self._limits, [self._run.detector_folder(name), own])
        self._workers.append(worker)
        return worker

    def check_names(self, chosen: Iterable[Chosen]) -> None:
        """Raises `UsageError` for a name to isolate that is not among the detectors of the run."""
        if isinstance(self._isolate, bool):
            return
        known = {name for each in chosen for name in (each.record.name, each.name)}
        for name in self._isolate:
            if name not in known:
                raise UsageError(
                    f"{name!r} is to be isolated, and is not among the detectors of this run",
                    remedy=f"Detectors: {', '.join(sorted(known)) or 'none'}.",
                )

    def close(self) -> None:
        """End every process."""
        for worker in self._workers:
            worker.close()

    def _named(self, record: PluginRecord) -> bool:
        if isinstance(self._isolate, bool):
            return self._isolate
        return record.name in self._isolate or record.canonical_name in self._isolate
