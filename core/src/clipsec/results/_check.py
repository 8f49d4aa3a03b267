"""What a detector may return as its verdict, and an interface as its measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from clipsec.errors import ContractError
from clipsec.results._classes import Verdict
from clipsec.results._exposure import Measurement
from clipsec.results._json import verdict_to_json
from clipsec.results._outcome import Outcome

_REMEDY = "Report this to its author."


def check_verdict(verdict: Any) -> Verdict:
    """Refuse what a plugin must not return: what is no verdict, or holds something else than plain data; and
    a NaN score, which would compare as "not above the threshold".

    Raises `ContractError`.
    """
    if not isinstance(verdict, Verdict):
        raise ContractError(
            f"the detector returned {type(verdict).__name__}, not a Verdict",
            remedy=_REMEDY,
        )
    if not isinstance(verdict.outcome, Outcome):
        raise ContractError(f"the detector's outcome is {verdict.outcome!r}", remedy=_REMEDY)
    try:
        verdict_to_json(verdict)
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(
            f"the detector's verdict cannot be written: {type(error).__name__}: {error}", remedy=_REMEDY
        ) from error
    for number in (verdict.score, verdict.threshold):
        if number is not None and math.isnan(number):
            raise ContractError("the detector's score is not a number", remedy=_REMEDY)
    return verdict


def check_measurement(value: Any, name: str) -> Measurement:
    """What an interface returned, if it keeps to the contract. Raises `ContractError`."""
    if not isinstance(value, Measurement):
        raise ContractError(
            f"{name} returned a {type(value).__name__}, not a Measurement",
            remedy="Report it to the interface's authors.",
        )
    complaint = ""
    if not value.events:
        complaint = "no case"
    elif any(each not in (0, 1) for each in (*value.events, *value.utility)):
        complaint = "an outcome that is neither 0 nor 1"
    elif value.ranks and (len(value.ranks) != len(value.events) or min(value.ranks) < 1):
        complaint = "ranks that are not one for each case, from 1"
    elif value.pools and len(value.pools) != len(value.events):
        complaint = "pools that are not one for each case"
    if complaint:
        raise ContractError(f"{name} returned {complaint}", remedy="Report it to the interface's authors.")
    return value


def check_same_cases(measurements: Sequence[Measurement], name: str) -> None:
    """Raise `ContractError` when the conditions are not about the same cases."""
    first = measurements[0]
    for other in measurements[1:]:
        alike = first.index == other.index and first.pools == other.pools
        if not alike or len(first.events) != len(other.events):
            raise ContractError(
                f"{name} measured other cases in one condition than in another",
                remedy="Cases may depend on the seed and the data alone; report it to its authors.",
            )
