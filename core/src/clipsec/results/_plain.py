"""Plain JSON values: what may be stored, how non-finite numbers are written, one text for digests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from clipsec.errors import ContractError

FLOAT_TAG = "$float"
_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}
_VALUES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def float_name(value: float) -> str:
    """The text that stands for a non-finite number: `NaN`, `Infinity` or `-Infinity`."""
    return _NAMES.get(value, "NaN")


def float_value(name: str) -> float:
    """The number that `float_name` wrote. Raises `ValueError` for any other text."""
    if name not in _VALUES:
        raise ValueError(f"{name!r} is not one of {', '.join(_VALUES)}")
    return _VALUES[name]


def encode_plain(value: Any, where: str = "value") -> Any:
    """A copy that is valid JSON and can be told from every other value once it is read back.

    JSON has no NaN and no infinity, and readers disagree on what to make of them, so a non-finite number
    becomes `{"$float": "NaN"}`; to keep that unambiguous, keys that start with `$` gain another `$`.
    Tuples become lists. Raises `ContractError` for anything that is not a number, a text, a truth value,
    None, or a list or mapping (keys: text) of these.
    """
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {FLOAT_TAG: float_name(value)}
    if isinstance(value, list | tuple):
        return [encode_plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ContractError(
                    f"{where} has a key of type {type(key).__name__}, {key!r}",
                    remedy="Use text as keys; JSON has no other.",
                )
        return {
            (f"${key}" if key.startswith("$") else str(key)): encode_plain(item, f"{where}[{key!r}]")
            for key, item in value.items()
        }
    raise ContractError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which is not plain data",
        remedy="Store numbers, texts, lists and mappings; call .item() on array scalars. Tensors go apart.",
    )


def decode_plain(value: Any) -> Any:
    """The value that `encode_plain` was given (tuples as lists). Raises `ValueError` if it was not."""
    if isinstance(value, list):
        return [decode_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if FLOAT_TAG in value:
        if len(value) != 1 or not isinstance(value[FLOAT_TAG], str):
            raise ValueError(f"{value!r} is not an encoded number")
        return float_value(value[FLOAT_TAG])
    return {key[1:] if key.startswith("$") else key: decode_plain(item) for key, item in value.items()}


def canonical_json(value: Any) -> bytes:
    """The one text of an already encoded value: sorted keys, no spaces, ASCII. What digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly: bare `NaN` and `Infinity`, and repeated keys, are errors (`ValueError`)."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key appears twice")
        return result

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
