"""The JSON Schema of `run.json`, generated from the classes and the docstrings of their fields.

`publish()` writes it to the file that is shipped with the package; a test compares the two.
"""

from __future__ import annotations

import ast
import enum
import inspect
import json
import types
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from clipsec.results._classes import SCHEMA_VERSION, RunResult
from clipsec.results._outcome import Outcome

PUBLISHED = Path(__file__).parent / "schema" / f"run-{SCHEMA_VERSION}.json"

_NUMBER = {
    "description": "A number; what JSON cannot say as a number is a text.",
    "anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}],
}
_PLAIN = {
    "description": 'Any plain value; a non-finite number is {"$float": NAME}, and other keys that start with'
    " $ are written with another $ in front.",
}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every `run.json` of this version fulfils."""
    definitions: dict[str, Any] = {"number": _NUMBER}
    root = _object(RunResult, definitions)
    root["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    root["properties"]["outcome"] = {
        **_of(Outcome, definitions),
        "description": "That of the most serious verdict.",
    }
    root["properties"]["exit_code"] = {
        "enum": [0, 1, 2, 3],
        "description": "0 clean, 1 finding, 2 error or inconclusive, 3 nothing ran.",
    }
    root["required"] += ["schema_version", "outcome", "exit_code"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:clipsec:run:{SCHEMA_VERSION}",
        "title": "A clipsec run",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def class_schema(cls: type, **head: Any) -> dict[str, Any]:
    """The JSON Schema of one attrs class of plain data, with what stands at its head.

    Raises `TypeError` for a field whose kind results may not have.
    """
    definitions: dict[str, Any] = {"number": _NUMBER}
    root = _object(cls, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **head,
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _object(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    kinds, docs = get_type_hints(cls), _field_docs(cls)
    properties = {}
    for field in attrs.fields(cls):
        properties[field.name] = _of(kinds[field.name], definitions)
        if field.name in docs:
            properties[field.name] = {**properties[field.name], "description": docs[field.name]}
    return {
        "description": inspect.cleandoc(cls.__doc__ or ""),
        "type": "object",
        "properties": properties,
        "required": [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING],
        "additionalProperties": False,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one annotation. Raises `TypeError` for one that results may not have."""
    simple = {str: {"type": "string"}, int: {"type": "integer"}, bool: {"type": "boolean"}, Any: _PLAIN}
    if kind in simple:
        return simple[kind]
    if kind is float:
        return {"$ref": "#/$defs/number"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if origin in (Union, types.UnionType):
        return {
            "anyOf": [
                {"type": "null"} if part is type(None) else _of(part, definitions) for part in arguments
            ]
        }
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        return {"enum": [str(member) for member in kind]}
    if attrs.has(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # so that a class that holds itself ends
            definitions[kind.__name__] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    raise TypeError(f"a result may not hold {kind!r}")


@cache
def _field_docs(cls: type) -> dict[str, str]:
    """Field name to the text below it in the source."""
    (tree,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for statement, following in zip(tree.body, tree.body[1:]):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            docs[statement.target.id] = inspect.cleandoc(following.value.value)
    return docs


def published_text() -> str:
    """What `PUBLISHED` must hold."""
    return json.dumps(schema(), indent=2) + "\n"


def publish() -> None:
    """Write the shipped file anew, after the classes changed."""
    PUBLISHED.parent.mkdir(exist_ok=True)
    PUBLISHED.write_text(published_text(), encoding="utf-8")
