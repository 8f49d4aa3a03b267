"""Which detectors run: found through the registry, checked against what the suspect offers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from clipsec.errors import UsageError
from clipsec.protocols import Need
from clipsec.results import ErrorRecord, Outcome, Verdict
from clipsec.runner._plugin_options import make_options
from clipsec_registry import PluginError, PluginRecord, Registry, Status

KIND = "detectors"


@attrs.frozen(eq=False)
class Chosen:
    """A detector that was asked for, loaded or not."""

    record: PluginRecord
    plugin: Any = None
    """The detector's class; None when it could not be loaded."""
    options: Any = None
    problem: Verdict | None = None
    """The verdict that stands in when the detector cannot run."""

    @property
    def name(self) -> str:
        return self.record.canonical_name


def choose_detectors(
    registry: Registry, names: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> list[Chosen]:
    """The named detectors, or every installed one; a plugin that fails to load becomes an error verdict.

    Raises `UsageError` for a name that is not installed or an option that does not exist.
    """
    try:
        records = [registry.find(KIND, name) for name in names] if names else registry.records(KIND)
    except PluginError as error:
        raise UsageError(str(error), remedy=error.remedy) from error
    records = list({record.canonical_name: record for record in records}.values())
    known = {name for record in records for name in (record.name, record.canonical_name)}
    for name in options:
        if name not in known:
            raise UsageError(
                f"options are given for {name!r}, which is not among the detectors of this run",
                remedy=f"Detectors: {', '.join(sorted(record.name for record in records)) or 'none'}.",
            )
    return [_load(registry, record, options, named=bool(names)) for record in records]


def _load(
    registry: Registry, record: PluginRecord, options: Mapping[str, Mapping[str, Any]], *, named: bool
) -> Chosen:
    plugin = registry.load(record)
    loaded = registry.record(record)
    if plugin is None:
        locked = () if registry.lock is None else registry.lock.distributions
        altered = loaded.status is Status.UNTRUSTED and loaded.distribution in locked
        return Chosen(loaded, problem=_unavailable(loaded, wanted=named or altered))
    if complaint := _broken_contract(plugin):
        remedy = f"Report it to the authors of {record.distribution}."
        error = ErrorRecord("ContractError", complaint, remedy)
        return Chosen(
            loaded,
            problem=Verdict(Outcome.ERROR, f"{record.name} breaks the contract: {complaint}", error=error),
        )
    values = {**options.get(record.name, {}), **options.get(record.canonical_name, {})}
    return Chosen(loaded, plugin, make_options(plugin.options, values, record.name))


def _broken_contract(plugin: Any) -> str:
    """What a detector's class lacks of what the runner reads before it calls it; empty if nothing."""
    if not callable(getattr(plugin, "detect", None)):
        return "it has no method detect"
    if not isinstance(getattr(plugin, "needs", None), Collection):
        return "it states no needs"
    options = getattr(plugin, "options", None)
    return "" if isinstance(options, type) and attrs.has(options) else "its options are not an attrs class"


def _unavailable(record: PluginRecord, *, wanted: bool) -> Verdict:
    """A plugin that was kept out on purpose is skipped; one that should run and cannot is an error.

    `wanted`: it was named, or the lock lists it, but not as it is now. Neither may pass for a clean run.
    """
    kept_out = not wanted and record.status in (Status.UNTRUSTED, Status.CONFLICTING)
    summary = f"{record.name} is {record.status}: {record.reason}"
    if kept_out:
        return Verdict(Outcome.SKIPPED, summary, notes=(record.remedy,))
    return Verdict(Outcome.ERROR, summary, error=ErrorRecord("PluginError", record.reason, record.remedy))


def missing_needs(plugin: Any, offered: frozenset[Need]) -> list[Need]:
    """What the plugin needs and the run does not offer, sorted."""
    return sorted(set(plugin.needs) - offered)
