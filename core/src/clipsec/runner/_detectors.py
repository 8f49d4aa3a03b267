"""Which detectors run: found through the registry, checked against what the suspect offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return [_load(registry, record, options) for record in records]


def _load(registry: Registry, record: PluginRecord, options: Mapping[str, Mapping[str, Any]]) -> Chosen:
    plugin = registry.load(record)
    loaded = registry.record(record)
    if plugin is None:
        return Chosen(loaded, problem=_unavailable(loaded))
    values = {**options.get(record.name, {}), **options.get(record.canonical_name, {})}
    return Chosen(loaded, plugin, make_options(plugin.options, values, record.name))


def _unavailable(record: PluginRecord) -> Verdict:
    """A plugin that was kept out on purpose is skipped; one that should run and cannot is an error."""
    kept_out = record.status in (Status.UNTRUSTED, Status.CONFLICTING)
    summary = f"{record.name} is {record.status}: {record.reason}"
    if kept_out:
        return Verdict(Outcome.SKIPPED, summary, notes=(record.remedy,))
    return Verdict(Outcome.ERROR, summary, error=ErrorRecord("PluginError", record.reason, record.remedy))


def missing_needs(plugin: Any, offered: frozenset[Need]) -> list[Need]:
    """What the plugin needs and the run does not offer, sorted."""
    return sorted(set(plugin.needs) - offered)
