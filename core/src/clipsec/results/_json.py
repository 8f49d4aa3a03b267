"""Results as JSON and back, through cattrs. Strict both ways: nothing is coerced into the wrong type.

Numbers that JSON cannot say are written as the texts `NaN`, `Infinity` and `-Infinity` where a number is
expected, so that no reader can take them for a number (or a null for "no number").
"""

from __future__ import annotations

import enum
import json
import math
import operator
from collections.abc import Callable
from typing import Any, NoReturn, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from clipsec.errors import ContractError, StoreError
from clipsec.results._classes import SCHEMA_VERSION, RunResult, Verdict
from clipsec.results._outcome import Outcome
from clipsec.results._plain import decode_plain, encode_plain, float_name, float_value

_READ_REMEDY = "The file was edited or written by another program; run the audit again."


def to_json(result: RunResult) -> dict[str, Any]:
    """A run as plain data for `json.dumps`, with the overall `outcome` and `exit_code` added for readers.

    Raises `ContractError` if a plugin put something else than plain numbers and texts into its verdict.
    """
    document: dict[str, Any] = _writer.unstructure(result)
    return {**document, "outcome": str(result.outcome), "exit_code": result.exit_code}


def to_text(result: RunResult) -> str:
    """The text of `run.json`. Raises `ContractError` like `to_json`."""
    return json.dumps(to_json(result), indent=1, allow_nan=False) + "\n"


def from_json(document: Any) -> RunResult:
    """The run that `to_json` wrote. Fields that a newer minor version added are ignored.

    Raises `StoreError` for another major version, a missing or unknown field, a value of the wrong type, or
    an overall outcome that is not that of the verdicts.
    """
    version = _version(document, "result")
    fields = {key: value for key, value in document.items() if key not in ("outcome", "exit_code")}
    result: RunResult = _structure(fields, RunResult, version)
    stated = (document.get("outcome", str(result.outcome)), document.get("exit_code", result.exit_code))
    if stated != (str(result.outcome), result.exit_code):
        raise StoreError(
            f"the result says {stated[0]!r} (exit code {stated[1]!r}), but its verdicts make it"
            f" {str(result.outcome)!r} (exit code {result.exit_code})",
            remedy=_READ_REMEDY,
        )
    return result


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """One verdict as plain data. Raises `ContractError` like `to_json`."""
    return {"schema_version": SCHEMA_VERSION, **_writer.unstructure(verdict)}


def verdict_from_json(document: Any) -> Verdict:
    """The verdict that `verdict_to_json` wrote. Raises `StoreError` like `from_json`."""
    version = _version(document, "verdict")
    fields = {key: value for key, value in document.items() if key != "schema_version"}
    verdict: Verdict = _structure(fields, Verdict, version)
    return verdict


def write_document(result: Any) -> dict[str, Any]:
    """Another result with a `schema_version` as plain data. Raises `ContractError` like `to_json`."""
    document: dict[str, Any] = _writer.unstructure(result)
    return document


def read_document(document: Any, wanted: type, what: str) -> Any:
    """What `write_document` wrote, read as `wanted`. Raises `StoreError` like `from_json`."""
    return _structure(document, wanted, _version(document, what))


def add_words(kind: type[enum.StrEnum]) -> None:
    """Read and write one more kind of word strictly; without this it would pass as any text."""
    _writer.register_unstructure_hook(kind, lambda value: str(kind(value)))
    for reader in (_strict_reader, _lenient_reader):
        reader.register_structure_hook(kind, lambda value, _: kind(value))


def _version(document: Any, what: str) -> tuple[int, int]:
    if not isinstance(document, dict):
        raise StoreError(f"a {what} is a JSON object, not {type(document).__name__}", remedy=_READ_REMEDY)
    stated = document.get("schema_version")
    try:
        major, minor = (int(part) for part in str(stated).split("."))
    except ValueError:
        raise StoreError(f"the {what} has no schema version: {stated!r}", remedy=_READ_REMEDY) from None
    if major != _OURS[0]:
        raise StoreError(
            f"the {what} has schema version {stated}, and this clipsec reads {_OURS[0]}.x",
            remedy="Read it with the clipsec that wrote it, or run the audit again.",
        )
    return major, minor


_OURS = tuple(int(part) for part in SCHEMA_VERSION.split("."))


def _structure(fields: dict[str, Any], wanted: type, version: tuple[int, int]) -> Any:
    try:
        return (_lenient_reader if version > _OURS else _strict_reader).structure(fields, wanted)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        reasons = cattrs.transform_error(error, format_exception=lambda inner, _: str(inner))
        raise StoreError(
            f"a result cannot be read: {'; '.join(reasons)[:500]}", remedy=_READ_REMEDY
        ) from error


def _make_writer() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_unstructure_hook_factory(
        attrs.has, lambda cls: make_dict_unstructure_fn(cls, converter, _cattrs_use_linecache=False)
    )
    converter.register_unstructure_hook(bool, _write_bool)
    converter.register_unstructure_hook(int, _write_int)
    converter.register_unstructure_hook(float, _write_float)
    converter.register_unstructure_hook(str, _write_str)
    converter.register_unstructure_hook(Outcome, lambda value: str(Outcome(value)))
    converter.register_unstructure_hook_factory(_is_tuple, lambda kind: _tuple_writer(converter, kind))
    converter.register_unstructure_hook_factory(_is_dict, lambda kind: _dict_writer(converter, kind))
    converter.register_unstructure_hook_func(_is_options, lambda value: encode_plain(value, "options"))
    return converter


def _make_reader(strict: bool) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=strict)
    converter.register_structure_hook_factory(
        attrs.has, lambda cls: _object_reader(cls, make_dict_structure_fn(cls, converter))
    )
    converter.register_structure_hook(bool, _read_exactly(bool))
    converter.register_structure_hook(int, _read_exactly(int))
    converter.register_structure_hook(float, _read_float)
    converter.register_structure_hook(str, _read_exactly(str))
    converter.register_structure_hook(Outcome, lambda value, _: Outcome(value))
    converter.register_structure_hook_factory(_is_tuple, lambda kind: _tuple_reader(converter, kind))
    converter.register_structure_hook_factory(_is_dict, lambda kind: _dict_reader(converter, kind))
    converter.register_structure_hook_func(_is_options, lambda value, _: decode_plain(_as(dict, value)))
    return converter


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_dict(kind: Any) -> bool:
    return get_origin(kind) is dict


def _is_options(kind: Any) -> bool:
    return _is_dict(kind) and get_args(kind)[1] is Any


def _refuse(value: Any, wanted: str) -> NoReturn:
    raise ContractError(
        f"a result holds {value!r:.80} (a {type(value).__qualname__}) in place of {wanted}",
        remedy="Call .item() or float() on array scalars before they go into a verdict.",
    )


def _write_bool(value: Any) -> bool:
    return value if isinstance(value, bool) else _refuse(value, "a truth value")


def _write_int(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        _refuse(value, "a whole number")
    return operator.index(value)


def _write_float(value: Any) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(value, "a number")
    return float(value) if math.isfinite(value) else float_name(value)


def _write_str(value: Any) -> str:
    return str(value) if isinstance(value, str) else _refuse(value, "a text")


def _tuple_writer(converter: cattrs.Converter, kind: Any) -> Callable[[Any], list[Any]]:
    item = converter.get_unstructure_hook(get_args(kind)[0])
    return lambda values: [item(value) for value in values]


def _dict_writer(converter: cattrs.Converter, kind: Any) -> Callable[[Any], dict[str, Any]]:
    item = converter.get_unstructure_hook(get_args(kind)[1])
    return lambda values: {_write_str(key): item(value) for key, value in values.items()}


def _as(kind: type, value: Any) -> Any:
    # `type() is`, not isinstance: True is an int to Python, and must not read as the number 1.
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, found {value!r:.80}")
    return value


def _read_exactly(kind: type) -> Callable[[Any, Any], Any]:
    return lambda value, _: _as(kind, value)


def _read_float(value: Any, _: Any) -> float:
    if isinstance(value, str):
        return float_value(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number, found {value!r:.80}")
    return float(value)


def _object_reader(cls: type, read: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, _: read(_as(dict, value), cls)


def _tuple_reader(converter: cattrs.Converter, kind: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    wanted = get_args(kind)[0]
    return lambda values, _: tuple(converter.structure(value, wanted) for value in _as(list, values))


def _dict_reader(converter: cattrs.Converter, kind: Any) -> Callable[[Any, Any], dict[str, Any]]:
    wanted = get_args(kind)[1]
    return lambda values, _: {
        key: converter.structure(value, wanted) for key, value in _as(dict, values).items()
    }


_writer = _make_writer()
_strict_reader = _make_reader(strict=True)
_lenient_reader = _make_reader(strict=False)
