"""The conformance battery for clipsec plugins.

from clipsec_testkit import DetectorConformance

class TestMine(DetectorConformance):
    make = Mine
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsec_testkit._check import CheckOutcome, CheckResult
    from clipsec_testkit._command import check_plugin
    from clipsec_testkit._conformance import (
        AttackConformance,
        DetectorConformance,
        InterfaceConformance,
        ModelLoaderConformance,
        RepairConformance,
    )
    from clipsec_testkit._toys import (
        ToyModel,
        Toys,
        ToyTrigger,
        accuracy,
        build_toys,
        caption_success_rate,
        success_rate,
    )

__all__ = [
    "AttackConformance",
    "CheckOutcome",
    "CheckResult",
    "DetectorConformance",
    "InterfaceConformance",
    "ModelLoaderConformance",
    "RepairConformance",
    "ToyModel",
    "ToyTrigger",
    "Toys",
    "accuracy",
    "build_toys",
    "caption_success_rate",
    "check_plugin",
    "success_rate",
]

# Resolved on first use: pytest imports the plugin in every session, also where no plugin is tested.
_HOMES = {
    "_check": ("CheckOutcome", "CheckResult"),
    "_command": ("check_plugin",),
    "_conformance": tuple(name for name in __all__ if name.endswith("Conformance")),
    "_toys": (
        "ToyModel",
        "ToyTrigger",
        "Toys",
        "accuracy",
        "build_toys",
        "caption_success_rate",
        "success_rate",
    ),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"clipsec_testkit.{home}"), name)
    raise AttributeError(f"module 'clipsec_testkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
