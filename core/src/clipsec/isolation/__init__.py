"""Detectors in processes of their own: limits, confinement, and tower calls that still share batches.

The names below are resolved on first use (PEP 562): the process that confines itself imports this package
before torch may start a thread.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsec.isolation._limits import Limits
    from clipsec.isolation._proxy import isolated_problem
    from clipsec.isolation._worker import Described, Worker

__all__ = ["Described", "Limits", "Worker", "isolated_problem"]

_HOMES = {
    "Described": "clipsec.isolation._worker",
    "Limits": "clipsec.isolation._limits",
    "Worker": "clipsec.isolation._worker",
    "isolated_problem": "clipsec.isolation._proxy",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clipsec.isolation' has no attribute {name!r}")
