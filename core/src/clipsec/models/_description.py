"""Checking what a configuration file says before a library is asked to build it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from clipsec.errors import MalformedModelError, UnsafeModelError, UnsupportedModelError
from clipsec.models._files import shown_names
from clipsec_registry import printable

Rule = Callable[[str, Any], Any]
"""`rule(where, value)` returns the value to use, or raises."""

_ABSURD = "Ask the vendor for the configuration that belongs to the weights; no published CLIP is that large."
_WRONG = "Ask the vendor for the configuration that belongs to the weights."


def checked(section: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    """The section with every value checked by its rule; nulls stay, since to libraries they may be a choice.

    Raises `UnsupportedModelError` for a key that has no rule, and what the rules raise.
    """
    unknown = set(section) - set(rules)
    if unknown:
        raise UnsupportedModelError(
            f"{where} has keys that are not known here: {shown_names(unknown)}",
            remedy="If a newer library wrote the configuration, upgrade open_clip_torch; otherwise ask "
            "the vendor.",
        )
    return {
        key: None if value is None else rules[key](f"{where}.{key}", value) for key, value in section.items()
    }


def whole(low: int, high: int) -> Rule:
    """An integer from `low` to `high`. Above is absurd (unsafe), below or another type is malformed."""

    def rule(where: str, value: Any) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or value < low:
            raise MalformedModelError(
                f"{where} is {printable(value, 40)}, not a whole number from {low}", remedy=_WRONG
            )
        if value > high:
            raise UnsafeModelError(f"{where} is {value:,}; at most {high:,} is believed", remedy=_ABSURD)
        return value

    return rule


def number(low: float, high: float) -> Rule:
    """A finite number from `low` to `high`."""

    def rule(where: str, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise MalformedModelError(
                f"{where} is {printable(value, 40)}, not a number from {low:g} to {high:g}", remedy=_WRONG
            )
        return float(value)

    return rule


def flag(where: str, value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise MalformedModelError(f"{where} is {printable(value, 40)}, not true or false", remedy=_WRONG)
    return value


def one_of(*words: str) -> Rule:
    """One of the given words."""

    def rule(where: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise UnsupportedModelError(
                f"{where} is {printable(value, 60)!r}; known are {', '.join(map(repr, words))}", remedy=_WRONG
            )
        return value

    return rule


def word(where: str, value: Any) -> str:
    """Any short text."""
    if not isinstance(value, str) or len(value) > 200:
        raise MalformedModelError(f"{where} is not a short text", remedy=_WRONG)
    return value


def several(rule: Rule, count: int) -> Rule:
    """A list of `count` values."""

    def listed(where: str, value: Any) -> list[Any]:
        if not isinstance(value, list | tuple) or len(value) != count:
            raise MalformedModelError(f"{where} is not a list of {count}", remedy=_WRONG)
        return [rule(f"{where}[{i}]", item) for i, item in enumerate(value)]

    return listed


def either(single: Rule, many: Rule) -> Rule:
    """A list by one rule, anything else by another."""
    return lambda where, value: (many if isinstance(value, list | tuple) else single)(where, value)


def square(rule: Rule) -> Rule:
    """A size, or a pair of equal sizes; returned as one."""

    def sized(where: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            pair = several(rule, 2)(where, value)
            if pair[0] != pair[1]:
                raise UnsupportedModelError(
                    f"{where} is {pair[0]} x {pair[1]}; only square pictures are supported",
                    remedy="Ask for a variant of the model with square input.",
                )
            return pair[0]
        return rule(where, value)

    return sized


def mapping(rules: Mapping[str, Rule]) -> Rule:
    """An object whose keys have rules of their own."""

    def rule(where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise MalformedModelError(f"{where} is not an object", remedy=_WRONG)
        return checked(value, rules, where)

    return rule
