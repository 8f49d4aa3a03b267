"""What `clipsec plugin check` calls, found through the entry-point group `clipsec.testkits`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipsec.errors import UsageError
from clipsec_registry import Kind
from clipsec_testkit._attacks import AttackBattery
from clipsec_testkit._check import Battery, CheckResult
from clipsec_testkit._conformance import declared
from clipsec_testkit._detectors import DetectorBattery
from clipsec_testkit._loaders import ModelLoaderBattery
from clipsec_testkit._measures import InterfaceBattery, RepairBattery

BATTERIES: Mapping[Kind, type[Battery]] = {
    Kind.ATTACKS: AttackBattery,
    Kind.DETECTORS: DetectorBattery,
    Kind.INTERFACES: InterfaceBattery,
    Kind.MODELS: ModelLoaderBattery,
    Kind.REPAIRS: RepairBattery,
}


def check_plugin(
    kind: Kind | str, plugin: Any, settings: Mapping[str, Any] | None = None
) -> Iterator[CheckResult]:
    """Run the battery of a kind on a loaded plugin; one result a check, as each ends.

    Settings are those of the conformance classes; what the plugin states in its class attribute
    `conformance` is used where they say nothing. Raises `UsageError` for a kind without a battery and for
    unknown settings.
    """
    try:
        battery = BATTERIES[Kind(kind)]
    except (KeyError, ValueError):
        raise UsageError(
            f"there are no conformance checks for {kind}",
            remedy=f"Kinds with checks: {', '.join(sorted(BATTERIES))}.",
        ) from None
    return battery(plugin, {**declared(plugin), **(settings or {})}).results()
