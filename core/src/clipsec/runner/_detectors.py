"""Which detectors run: found through the registry, checked against what the suspect offers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from clipsec.errors import DetectionError, UsageError
from clipsec.isolation import Worker
from clipsec.protocols import Need
from clipsec.results import WHEN_NAMED, ErrorRecord, Outcome, Verdict
from clipsec.runner._plugin_options import make_options
from clipsec_registry import PluginError, PluginRecord, Registry, Status

KIND = "detectors"


@attrs.frozen(eq=False)
class Chosen:
    """A detector that was asked for, loaded or not."""

    record: PluginRecord
    plugin: Any = None
    """The detector's class, or what its worker says of it; None when it could not be loaded."""
    options: Any = None
    worker: Worker | None = None
    """The process it runs in, if not in this one."""
    problem: Verdict | None = None
    """The verdict that stands in when the detector cannot run."""
    label: str = ""
    """Tells one detector with several sets of options apart: `NAME@LABEL`."""

    @property
    def name(self) -> str:
        return self.record.canonical_name + (f"@{self.label}" if self.label else "")

    @property
    def option_values(self) -> dict[str, Any]:
        """The options as plain values."""
        return self.options if self.worker is not None else attrs.asdict(self.options)


Start = Callable[[PluginRecord, Any], Worker | None]
"""Starts the process of a detector, or says None: it runs in this one. Called with None in place of the class
before the plugin is imported, and with its class after that."""


def choose_detectors(
    registry: Registry,
    names: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    start: Start = lambda record, plugin: None,
) -> list[Chosen]:
    """The named detectors, or every installed one; a plugin that fails to load becomes an error verdict.

    `NAME@LABEL` asks for one of several runs of a detector; `options` has them under the same name. Those
    with a worker are only being loaded, there: `described` waits for them.

    Raises `UsageError` for a name that is not installed or an option that does not exist.
    """
    split = [name.partition("@")[::2] for name in names]
    try:
        found = [(registry.find(KIND, name), label) for name, label in split]
    except PluginError as error:
        raise UsageError(str(error), remedy=error.remedy) from error
    if not names:
        found = [(record, "") for record in registry.records(KIND)]
    found = list({(record.canonical_name, label): (record, label) for record, label in found}.values())
    known = {name for record, label in found for name in _names(record, label)}
    for name in options:
        if name not in known:
            raise UsageError(
                f"options are given for {name!r}, which is not among the detectors of this run",
                remedy=f"Detectors: {', '.join(sorted(_names(*each)[0] for each in found)) or 'none'}.",
            )
    return [
        attrs.evolve(
            _load(registry, record, _options_of(record, label, options), start, named=bool(names)),
            label=label,
        )
        for record, label in found
    ]


def _names(record: PluginRecord, label: str) -> list[str]:
    suffix = f"@{label}" if label else ""
    return [record.name + suffix, record.canonical_name + suffix]


def _options_of(record: PluginRecord, label: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for name in _names(record, label) for key, value in options.get(name, {}).items()}


def _load(
    registry: Registry,
    record: PluginRecord,
    values: Mapping[str, Any],
    start: Start,
    *,
    named: bool,
) -> Chosen:
    worker = start(record, None) if record.status is Status.OK else None
    if worker is not None:
        return _loading(registry, record, values, worker)
    plugin = registry.load(record)
    loaded = registry.record(record)
    if plugin is None:
        return Chosen(loaded, problem=_unavailable(loaded, wanted=named or _altered(registry, loaded)))
    if complaint := broken_contract(plugin):
        return Chosen(loaded, problem=_breaks(loaded, complaint))
    if not (named or record.local or runs_by_default(plugin)):
        return Chosen(loaded, plugin, problem=_only_when_named(loaded))
    worker = start(record, plugin)
    if worker is not None:
        return _loading(registry, loaded, values, worker)
    return Chosen(loaded, plugin, make_options(plugin.options, values, record.name))


def _loading(registry: Registry, record: PluginRecord, values: Mapping[str, Any], worker: Worker) -> Chosen:
    lock = registry.lock
    worker.ask_to_import(
        record.canonical_name,
        values,
        lock=None if lock is None else {k: attrs.asdict(v) for k, v in lock.distributions.items()},
        local=[str(record.local_file)] if record.local else [],
    )
    return Chosen(record, worker=worker)


def described(registry: Registry, chosen: Chosen, *, named: bool) -> Chosen:
    """The detector, once its worker has imported it.

    Raises `UsageError` for an option that does not exist.
    """
    if chosen.worker is None or chosen.problem is not None:
        return chosen
    try:
        said = chosen.worker.describe()
    except DetectionError as error:
        chosen.worker.close()
        summary = f"{chosen.record.name} could not be imported in a process of its own: {error}"
        cause = ErrorRecord(type(error).__name__, str(error), error.remedy, chosen.worker.output[-4000:])
        return attrs.evolve(chosen, problem=Verdict(Outcome.ERROR, summary, error=cause))
    record = attrs.evolve(chosen.record, status=Status(said.status), reason=said.reason, remedy=said.remedy)
    if said.status != Status.OK:
        chosen.worker.close()
        wanted = named or _altered(registry, record)
        return attrs.evolve(chosen, record=record, problem=_unavailable(record, wanted=wanted))
    if said.broken:
        chosen.worker.close()
        return attrs.evolve(chosen, problem=_breaks(record, said.broken))
    if not (named or record.local or said.by_default):
        chosen.worker.close()
        return attrs.evolve(chosen, problem=_only_when_named(record))
    return attrs.evolve(chosen, plugin=said, options=said.options)


def _altered(registry: Registry, record: PluginRecord) -> bool:
    """Whether the lock lists the plugin, but not as it is."""
    locked = () if registry.lock is None else registry.lock.distributions
    return record.status is Status.UNTRUSTED and record.distribution in locked


def _breaks(record: PluginRecord, complaint: str) -> Verdict:
    remedy = f"Report it to the authors of {record.distribution}."
    error = ErrorRecord("ContractError", complaint, remedy)
    return Verdict(Outcome.ERROR, f"{record.name} breaks the contract: {complaint}", error=error)


def broken_contract(plugin: Any) -> str:
    """What a detector's class lacks of what the runner reads before it calls it; empty if nothing."""
    if not callable(getattr(plugin, "detect", None)):
        return "it has no method detect"
    if not isinstance(getattr(plugin, "needs", None), Collection):
        return "it states no needs"
    options = getattr(plugin, "options", None)
    return "" if isinstance(options, type) and attrs.has(options) else "its options are not an attrs class"


def runs_by_default(plugin: Any) -> bool:
    """Whether a run that names no detector includes this one: unless it has a class attribute `by_default`
    that is False."""
    return getattr(plugin, "by_default", True) is not False


def _only_when_named(record: PluginRecord) -> Verdict:
    """So says a detector that is installed to compare others with, not to be relied on."""
    return Verdict(
        Outcome.SKIPPED,
        f"{record.name} {WHEN_NAMED}",
        notes=(f"Ask for it with --detector {record.name}.",),
    )


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
