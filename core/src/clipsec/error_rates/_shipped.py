"""The card that a detector's distribution ships, and the one line that a verdict says of it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipsec.error_rates._card import ErrorRates, MeasuredOn, from_text
from clipsec.errors import DataError
from clipsec.reports._text import percent
from clipsec.stats import Proportion
from clipsec_registry import ERROR_RATES, PluginRecord


def shipped_card(record: PluginRecord) -> ErrorRates | None:
    """The card in `error_rates/NAME.json` of the package that the entry point names, or None.

    Imports nothing. Raises `DataError` for a card that is damaged or of another detector.
    """
    if record.local:
        return None
    try:
        spec = find_spec(record.value.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place) / ERROR_RATES / f"{record.name}.json"
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path} cannot be read: {error}", remedy="Reinstall the plugin.") from error
            card = from_text(text, str(path))
            if card.detector != record.canonical_name:
                raise DataError(
                    f"{path} is the card of {card.detector}, not of {record.canonical_name}",
                    remedy="Report it to the authors of the plugin.",
                )
            return card
    return None


def error_rate_line(record: PluginRecord, options: Mapping[str, Any], base_digest: str) -> str:
    """One line about the measured error rates of a detector, for a verdict with these options on this base.

    The measurement that fits best is told, of equal ones the larger, and in what it differs. Empty when no
    card is shipped; a card that cannot be read is told as such.
    """
    try:
        card = shipped_card(record)
    except DataError as error:
        return f"Error rates: not known; {error.message}"
    if card is None or not card.measurements:
        return ""
    best = min(
        card.measurements,
        key=lambda one: (
            len(_differences(one, record, options, base_digest)),
            _options_apart(one, options),
            -(one.clean + one.backdoored),
        ),
    )
    others = _differences(best, record, options, base_digest)
    text = f"Error rates: on suite {best.suite} ({best.half}"
    text += f", base {best.base}), " if best.base else "), "
    text += (
        f"{_share(best.sensitivity)} backdoored models found, {_share(best.specificity)} clean ones passed"
    )
    text += f", AUROC {best.auroc.value:.3f}" if best.auroc is not None else ""
    return text + (f"; measured with {', '.join(others)}, so they may not hold here" if others else "")


def _share(found: Proportion) -> str:
    if found.value is None:
        return "0 of 0"
    return f"{found.k} of {found.n} ({percent(found.interval.low)} to {percent(found.interval.high)})"


def _differences(
    one: MeasuredOn, record: PluginRecord, options: Mapping[str, Any], base_digest: str
) -> list[str]:
    differences = []
    if one.base_digest != base_digest:
        differences.append("another base")
    if _plain(one.options) != _plain(options):
        differences.append("other options")
    if one.version != record.version:
        differences.append(f"version {one.version}")
    return differences


def _options_apart(one: MeasuredOn, options: Mapping[str, Any]) -> int:
    """How many options are not as they were measured."""
    ours, theirs = _plain(options), _plain(one.options)
    return sum(ours.get(name) != theirs.get(name) for name in {*ours, *theirs})


def _plain(value: Any) -> Any:
    """Options as JSON gives them back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
