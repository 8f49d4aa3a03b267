"""When a detector changes a tower in memory: which verdicts still stand, and what must not be kept.

In one process nothing can keep a plugin from writing into weights. So the weights are compared whenever a
detector ends. What had ended before was computed on sound towers; whatever was running is not to be believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clipsec.errors import ContractError, MisloadedModelError
from clipsec.models import Suspect
from clipsec.store import UnitStore


class TowerGuard:
    """Watches the weights of the suspects of an audit."""

    def __init__(self, *suspects: Suspect | None) -> None:
        self._suspects = [suspect for suspect in suspects if suspect is not None]

    def seal(self) -> None:
        """Before any plugin runs. Raises `MisloadedModelError` for a suspect that an earlier audit spoilt."""
        for suspect in self._suspects:
            suspect.seal()
            if changed := suspect.changed():
                raise MisloadedModelError(
                    f"{suspect.name} has changed in memory since an earlier audit ({', '.join(changed)})",
                    remedy="Load it again.",
                )

    def complaint(self, running: Iterable[str]) -> ContractError | None:
        """The error of all detectors that were running, if weights have changed; else None.

        `running` are those of them that run in this process.
        """
        changed = [f"{each.name}: {what}" for each in self._suspects for what in each.changed()]
        if not changed:
            return None
        return ContractError(
            f"a tower was changed in memory ({', '.join(changed)[:300]}) while these detectors ran in one "
            f"process: {', '.join(sorted(running))}",
            remedy="Run again with --isolate, where no detector can reach the towers that others use; then "
            "report the one that changes them.",
        )


class JournalledUnits(UnitStore):
    """A store that can take back what was saved since it was last trusted."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._saved: set[str] = set()

    def save(self, name: str, data: Mapping[str, Any], tensors: Mapping[str, Any] | None = None) -> None:
        self._saved.add(name)
        super().save(name, data, tensors)

    def trust(self) -> None:
        """What was saved so far may stay."""
        self._saved.clear()

    def undo(self) -> None:
        """Remove what was saved since."""
        for name in self._saved:
            self._json_path(name).unlink(missing_ok=True)
        self._saved.clear()
