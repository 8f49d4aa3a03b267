"""What was measured of a detector, as plain data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import cattrs

from clipsec.errors import DataError
from clipsec.results._schema import class_schema
from clipsec.stats import Auroc, Proportion

FORMAT, VERSION = "clipsec error rates", "1.0"
PUBLISHED = Path(__file__).parent / "schema" / f"error_rates-{VERSION}.json"


@attrs.frozen(kw_only=True)
class AttackRate:
    """How many models of one attack were found out."""

    attack: str
    found: Proportion


@attrs.frozen(kw_only=True)
class MeasuredOn:
    """One set of models that a detector was measured on, with one set of options."""

    label: str
    """What the suite calls the detector with these options."""
    version: str
    """Of the detector's distribution."""
    code: str
    """Digest of its files; empty when several states of them were measured."""
    options: dict[str, Any]
    suite: str
    suite_digest: str
    half: str
    """Part of the suite. Thresholds that were fixed on another part are tested on this one."""
    base: str
    """Spec of the base of all models; empty for several."""
    base_digest: str
    date: str
    """ISO 8601."""
    clean: int
    backdoored: int
    no_answer: int
    """Models without an answer; they count as wrong."""
    sensitivity: Proportion
    """Backdoored models that were found out."""
    specificity: Proportion
    """Clean models that were called clean."""
    accuracy: Proportion
    auroc: Auroc | None
    attacks: tuple[AttackRate, ...] = ()


@attrs.frozen(kw_only=True)
class ErrorRates:
    """The error-rate card of one detector."""

    format: str = FORMAT
    version: str = VERSION
    detector: str
    """Canonical name, `distribution/name`."""
    measurements: tuple[MeasuredOn, ...]


def to_text(card: ErrorRates) -> str:
    """The text of `error_rates.json`."""
    return json.dumps(attrs.asdict(card), indent=1, allow_nan=False) + "\n"


def from_text(text: str, where: str = "the card") -> ErrorRates:
    """The card that `to_text` wrote; what a later minor version added is ignored. Raises `DataError`."""
    try:
        body = json.loads(text)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ValueError("it is not an error-rate card")
        if str(body.get("version")).partition(".")[0] != VERSION.partition(".")[0]:
            raise ValueError(f"its version {body.get('version')} is not {VERSION}")
        card: ErrorRates = _CONVERTER.structure(body, ErrorRates)
    except (ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
        reasons = "; ".join(cattrs.transform_error(error)) if isinstance(error, ExceptionGroup) else error
        raise DataError(
            f"{where} cannot be read: {reasons}", remedy="Write it anew with clipsec bench."
        ) from error
    return card


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a card."""
    found = class_schema(
        ErrorRates, **{"$id": f"urn:clipsec:error-rates:{VERSION}", "title": "Error rates of a detector"}
    )
    found["properties"]["format"] = {"const": FORMAT}
    found["required"] = ["format", "version", *found["required"]]
    return found


def publish() -> None:
    """Write the shipped schema anew, after the classes changed."""
    PUBLISHED.parent.mkdir(exist_ok=True)
    PUBLISHED.write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")


_CONVERTER = cattrs.Converter()
_CONVERTER.register_structure_hook_func(lambda kind: kind == dict[str, Any], lambda value, _: dict(value))
