"""clipsec audits CLIP models that somebody else delivered.

The package itself imports nothing heavy: `clipsec list` must answer before torch would have loaded. The
names below are resolved on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsec.data import ImagePool, LabelledSet
    from clipsec.models import Suspect, load_suspect
    from clipsec.results import ExposureResult, Outcome, RepairResult, RunResult, Verdict
    from clipsec.runner import audit, expose, repair

__all__ = [
    "ExposureResult",
    "ImagePool",
    "LabelledSet",
    "Outcome",
    "RepairResult",
    "RunResult",
    "Suspect",
    "Verdict",
    "__version__",
    "audit",
    "expose",
    "load_suspect",
    "repair",
]

__version__ = "0.1.0"

_HOMES = {
    "ExposureResult": "clipsec.results",
    "ImagePool": "clipsec.data",
    "LabelledSet": "clipsec.data",
    "Outcome": "clipsec.results",
    "RepairResult": "clipsec.results",
    "RunResult": "clipsec.results",
    "Suspect": "clipsec.models",
    "Verdict": "clipsec.results",
    "audit": "clipsec.runner",
    "expose": "clipsec.runner",
    "load_suspect": "clipsec.models",
    "repair": "clipsec.runner",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clipsec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
