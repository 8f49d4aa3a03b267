"""What a detector may return as its verdict."""

from __future__ import annotations

import math
from typing import Any

from clipsec.errors import ContractError
from clipsec.results._classes import Verdict
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
