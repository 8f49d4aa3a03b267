"""Which detectors run: found through the registry, checked against what the suspect offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import cattrs
from clipsec_registry import PluginError, PluginRecord, Registry, Status

from clipsec.errors import UsageError
from clipsec.protocols import Need
from clipsec.results import ErrorRecord, Outcome, Verdict

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
        records = (
            [registry.find(KIND, name) for name in names]
            if names
            else registry.records(KIND)
        )
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
    return Chosen(loaded, plugin, make_options(plugin, values, record.name))


def make_options(plugin: Any, values: Mapping[str, Any], name: str) -> Any:
    """An instance of the plugin's options class from strings or plain values.

    Raises `UsageError` for an unknown option or a value of the wrong kind.
    """
    fields = {field.name: field for field in attrs.fields(plugin.options)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UsageError(
            f"{name} has no option {unknown[0]!r}", remedy=f"Its options: {', '.join(sorted(fields)) or 'none'}."
        )
    try:
        return _options_converter().structure(dict(values), plugin.options)
    except Exception as error:
        # cattrs wraps the validators' errors in groups; people want the innermost sentence.
        innermost: BaseException = error
        while isinstance(innermost, BaseExceptionGroup):
            innermost = innermost.exceptions[0]
        raise UsageError(
            f"{name} does not accept {dict(values)}: {innermost}", remedy="See the plugin's page for its options."
        ) from error


def _options_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def to_number(value: Any, kind: type) -> Any:
        # "12/255" is how the field writes perturbation bounds.
        if isinstance(value, str) and kind is float and value.count("/") == 1:
            numerator, denominator = value.split("/")
            return float(numerator) / float(denominator)
        if isinstance(value, str) and kind is bool:
            if value.lower() not in ("true", "false"):
                raise ValueError(f"{value!r} is neither true nor false")
            return value.lower() == "true"
        return kind(value)

    def to_names(value: Any, _: Any) -> tuple[str, ...]:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(map(str, value))

    def to_optional_number(value: Any, _: Any) -> float | None:
        return None if value is None or value == "none" else to_number(value, float)

    for kind in (float, int, bool):
        converter.register_structure_hook(kind, to_number)
    converter.register_structure_hook(tuple[str, ...], to_names)
    converter.register_structure_hook(float | None, to_optional_number)
    return converter


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
