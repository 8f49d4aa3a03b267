"""Error-rate cards: how often a detector is right, measured by `clipsec bench`, shipped beside its code.

A detector's distribution ships `error_rates/NAME.json` in the package that its entry point names.
"""

from clipsec.error_rates._card import AttackRate, ErrorRates, MeasuredOn, from_text, schema, to_text
from clipsec.error_rates._shipped import error_rate_line, shipped_card

__all__ = [
    "AttackRate",
    "ErrorRates",
    "MeasuredOn",
    "error_rate_line",
    "from_text",
    "schema",
    "shipped_card",
    "to_text",
]
