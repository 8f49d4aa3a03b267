"""Texts and numbers as people read them. Every text from a model, a file or a plugin passes `visible`."""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections.abc import Iterable

LONGEST = 600
"""Characters of one text that are shown; a class name of a megabyte must not hide the verdict."""

_MINUS, _THIN_SPACE = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # scripts such as Persian cannot do without


def visible(text: object, *, lines: bool = False, longest: int = LONGEST) -> str:
    """The text with everything that acts on a terminal or hides in a page made visible.

    Control characters (escape sequences), direction overrides and other invisible formatting, unpaired
    surrogates and unassigned characters become their escapes, such as `\\x1b`. Line feeds stay if `lines`.
    What exceeds `longest` characters is cut, and how much is said.
    """
    text = str(text)
    shown = text[:longest]
    if not shown.isprintable():
        shown = "".join(_shown(character, lines) for character in shown)
    return f"{shown}... ({len(text):,} characters in all)" if len(text) > longest else shown


def _shown(character: str, lines: bool) -> str:
    if character.isprintable() or character in _JOINERS or (lines and character in "\n\t"):
        return character
    if unicodedata.category(character) == "Zs":  # spaces of other widths, ours among them
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def number(value: float | None, digits: int = 3) -> str:
    """A number to some significant digits, with a minus sign and thousands separated, a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else f"{_MINUS}\N{INFINITY}"
    size = math.floor(math.log10(abs(value))) if value else 0
    if not -5 <= size < 9:
        text = f"{value:z.{digits - 1}e}"
    else:
        text = f"{value:z,.{max(0, digits - 1 - size)}f}"
    return text.replace("-", _MINUS)


def decimals_for(values: Iterable[float | None]) -> int:
    """How many decimals a column needs for its typical value to show three digits; the same for all rows."""
    sizes = sorted(abs(value) for value in values if value is not None and math.isfinite(value) and value)
    if not sizes:
        return 0
    return min(5, max(0, 2 - math.floor(math.log10(sizes[len(sizes) // 2]))))


def in_column(value: float | None, decimals: int) -> str:
    """A number with fixed decimals, so that a column can be compared at a glance."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:z,.{decimals}f}".replace("-", _MINUS)


def is_rate(key: str) -> bool:
    """Whether a measure is a rate by its name, such as `null_success_rate`, and so shown as per cent."""
    return key == "rate" or key.endswith("_rate")


def figure(value: float | None, key: str = "") -> str:
    """A number on its own: counts without decimals, rates as per cent, others to three digits."""
    if is_rate(key):
        return percent(value)
    if value is not None and math.isfinite(value) and value == round(value) and abs(value) < 1e9:
        return f"{value:z,.0f}".replace("-", _MINUS)
    return number(value)


def moment(text: str) -> str:
    """An ISO 8601 time to the minute, in UTC; any other text as it is."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC" if when.tzinfo else text


def compared(score: float | None, threshold: float | None) -> tuple[str, str]:
    """Both numbers, with enough digits to see that they differ if they do."""
    for digits in range(3, 18):
        texts = number(score, digits), number(threshold, digits)
        if texts[0] != texts[1] or score == threshold:
            break
    return texts


def relation(score: float | None, threshold: float | None) -> str:
    """How the score stands to the threshold: `>`, `=`, `<`, or nothing if one of them is missing."""
    if score is None or threshold is None or math.isnan(score) or math.isnan(threshold):
        return ""
    return ">" if score > threshold else "=" if score == threshold else "<"


def percent(rate: float | None) -> str:
    """A rate in [0, 1] as per cent, with a decimal where rounding would claim 0 or 100."""
    if rate is None or not math.isfinite(rate):
        return number(rate)
    text = f"{100 * rate:.0f}"
    if (text == "100" and rate < 1) or (text == "0" and rate > 0):
        text = f"{100 * rate:.1f}"
    if (text == "100.0" and rate < 1) or (text == "0.0" and rate > 0):
        text = "> 99.9" if rate < 1 and rate > 0.5 else "< 0.1"
    return f"{text}{_THIN_SPACE}%".replace("-", _MINUS)


def duration(seconds: float) -> str:
    """Seconds as `0.25 s`, `12 s`, `3 min 4 s` or `2 h 5 min`."""
    if not seconds:
        return "0 s"
    if not math.isfinite(seconds) or seconds < 10:
        return f"{number(seconds, 2)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def memory(count: int) -> str:
    """Bytes with a binary unit."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    for bigger in units:
        if value < 1024:
            break
        value, unit = value / 1024, bigger
    return f"{number(value)} {unit}" if unit != "B" else f"{count:,} B"


def title(key: str) -> str:
    """The name of a measure or option as a heading: `success_rate` -> `Success rate`."""
    words = key.replace("_", " ")
    return words[:1].upper() + words[1:]


def plural(count: int, singular: str, several: str = "") -> str:
    """`1 class`, `25 classes`."""
    return f"{count:,} {singular if count == 1 else several or singular + 's'}"
