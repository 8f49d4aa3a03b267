"""A plugin's options from what a command line or a TOML file says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import attrs
import cattrs

from clipsec.errors import UsageError

Options = TypeVar("Options")


def make_options(kind: type[Options], values: Mapping[str, Any], name: str) -> Options:
    """An instance of the attrs class `kind` from texts or plain values.

    Numbers may be written as fractions ("12/255", as the field writes perturbation bounds), lists with
    commas, an absent optional value as "none". `name` is who the options are for, in messages.

    Raises `UsageError` for an unknown option or a value of the wrong kind.
    """
    known = sorted(field.name for field in attrs.fields(kind))  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError(
            f"{name} has no option {unknown[0]!r}", remedy=f"Its options: {', '.join(known) or 'none'}."
        )
    try:
        return _converter().structure(dict(values), kind)
    except Exception as error:
        # cattrs wraps what converters and validators raise in groups; people want the innermost sentence.
        innermost: BaseException = error
        while isinstance(innermost, BaseExceptionGroup):
            innermost = innermost.exceptions[0]
        given = ", ".join(f"{key}={value}" for key, value in values.items())
        raise UsageError(
            f"{name} does not accept {given}: {innermost.args[0] if innermost.args else innermost}",
            remedy="See the plugin's page for its options.",
        ) from error


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (float, int, bool, str):
        converter.register_structure_hook(kind, _plain)
    converter.register_structure_hook_func(_is_tuple, _sequence)
    converter.register_structure_hook_func(_is_optional, _optional)
    return converter


def _plain(value: Any, kind: type) -> Any:
    if kind is bool and isinstance(value, str):
        # bool("false") is True.
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{value!r} is neither true nor false")
        return value.lower() == "true"
    if kind is float and isinstance(value, str) and value.count("/") == 1:
        numerator, denominator = value.split("/")
        return float(numerator) / float(denominator)
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value!r} is not a whole number")
    return kind(value)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _sequence(value: Any, kind: Any) -> tuple[Any, ...]:
    items = [item for item in value.split(",") if item] if isinstance(value, str) else value
    return tuple(_plain(item, get_args(kind)[0]) for item in items)


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind)


def _optional(value: Any, kind: Any) -> Any:
    if value is None or value == "none":
        return None
    (inner,) = (each for each in get_args(kind) if each is not NoneType)
    return _plain(value, inner)
